"""A trained model cut once to a quarter of its states, without retraining: what the choice of states is worth.

For every seed one model is trained at full size, and then cut by every measure, with and without letting kept states
take over from the others. All cuts see the same calibration batches, of the training split; losses are those of the
test split, which serves nothing else.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.nn import functional as F

from gramian.compression.cuts import compress_
from gramian.compression.policies import Rank
from gramian.errors import ConfigError
from gramian.lab.build import build_data
from gramian.lab.config import Config, load_config
from gramian.lab.data import training_batches
from gramian.lab.environment import environment
from gramian.lab.evaluate import evaluate, predictions
from gramian.lab.experiments.reproduce import finished, spread, without_cuts
from gramian.lab.files import whole_file, write_json
from gramian.lab.saved_model import load_model
from gramian.layers.calibration import Calibration
from gramian.layers.selective.measures import measure_named

__all__ = ["VARIANTS", "one_shot"]

_FRACTION = 4  # of the states, one in so many is kept


class Variant(NamedTuple):
    """A way to cut."""

    measure: str
    mix: bool


_SCORES = ("energy", "taylor", "fisher", "empirical", "mean-dynamics", "magnitude", "random")
VARIANTS: Mapping[str, tuple[Variant, ...]] = {
    "mamba": (
        Variant("regression", True),
        *(Variant(name, True) for name in ("energy", "taylor", "random")),
        Variant("regression", False),
        *(Variant(name, False) for name in _SCORES),
    ),
    "linear_attention": (
        Variant("balanced", True),
        Variant("balanced", False),
        *(Variant(name, False) for name in _SCORES),
    ),
    "mamba2": tuple(Variant(name, False) for name in _SCORES),
}
"""By the kind of layer; the first is the library's default."""


def one_shot(task: str, scale: str, seeds: Sequence[int], out: Path, runs: Path) -> dict[str, Any]:
    """Train the full model of ``task-scale`` for every seed, cut it in all ways, and write results to `out`."""
    config_name, label = f"{task}-{scale}", f"measures-{task}-{scale}"
    layer = load_config(config_name).model.layer
    if layer not in VARIANTS:
        raise ConfigError(
            f"measures-{task} was asked for, and '{config_name}' is built of {layer}.",
            "Its states are ranked by their Hankel singular values; there are no measures to compare.",
            f"Tasks around {', '.join(VARIANTS)}: measures-copying, measures-text, measures-attention.",
        )
    results: dict[str, Any] = {
        "title": label,
        "command": f"gramian reproduce measures-{task} --scale {scale} --seeds {' '.join(map(str, seeds))}",
        "seeds": list(seeds),
        "environment": environment(),
        "config": load_config(config_name).model_dump(),
        "seeds_done": [],
    }
    for seed in seeds:
        config = without_cuts(load_config(config_name, [f"train.seed={seed}"]))
        folder = runs / "reproduce" / config_name / f"full-seed{seed}"  # the very run that the comparison also needs
        finished(config, folder)
        results["seeds_done"].append({"seed": seed, **_all_cuts(config, folder)})
        write_json(out / f"{label}.json", results)
        with whole_file(out / f"{label}.md") as draft:
            draft.write_text(table(results))
    return results


def _all_cuts(config: Config, folder: Path) -> dict[str, Any]:
    """The model's loss, and for every variant the loss and the layers' output errors after the cut."""
    model, data = load_model(folder).model, build_data(config.data)
    stream = training_batches(data, config.train.batch_size, config.train.seed)
    batches = [stream.batch(step) for step in range(4)]
    before = evaluate(model, data.test)
    states = max(config.model.d_states)
    found: dict[str, Any] = {"states": states, "rank": max(1, states // _FRACTION), "before": before, "variants": []}
    for measure, mix in VARIANTS[config.model.layer]:
        smaller = copy.deepcopy(model)
        calibration = Calibration(
            batches,
            measure=measure_named(measure),
            mix=mix,
            loss=lambda model, batch: F.cross_entropy(*predictions(model, *batch)),
        )
        event = compress_(smaller, Rank(found["rank"]), calibration)
        errors = [change.held_out_error for change in event.layers]
        found["variants"].append(
            {
                "measure": measure,
                "mix": mix,
                "after": evaluate(smaller, data.test),
                "held_out_errors": errors,
                "seconds": event.seconds,
            }
        )
    return found


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    done, where = results["seeds_done"], results["environment"]
    first = done[0]
    lines = [
        f"# {results['title']}",
        "",
        f"States {first['states']} -> {first['rank']} in every layer, no retraining. Full model: test loss "
        f"{spread([d['before']['loss'] for d in done], 4)}, accuracy "
        f"{spread([d['before']['accuracy'] for d in done], 3)}.",
        "",
        "| measure | kept states take over | rise of the loss | accuracy | output error, held out (mean of layers) |",
        "|---|---|---|---|---|",
    ]
    for i, variant in enumerate(first["variants"]):
        runs = [d["variants"][i] for d in done]
        rises = [r["after"]["loss"] - d["before"]["loss"] for r, d in zip(runs, done, strict=True)]
        errors = [statistics.fmean(r["held_out_errors"]) for r in runs]
        lines.append(
            f"| {variant['measure']} | {'yes' if variant['mix'] else 'no'} | {spread(rises, 4)} | "
            f"{spread([r['after']['accuracy'] for r in runs], 3)} | {spread(errors, 3)} |"
        )
    ratios = [_advantage(d) for d in done]
    lines += [
        "",
        f"Rise of the loss with the best selection alone over that with the default (first row), per seed: "
        f"{', '.join(f'{r:.3g}' for r in ratios)}.",
        "",
        f"Mean ± standard deviation over seeds {results['seeds']}. `{results['command']}` · {where['cpu']}, "
        f"{where['threads']} threads · torch {where['torch']}, Python {where['python']} · float32 · commit "
        f"{where['git_commit']}",
        "",
    ]
    return "\n".join(lines)


def _advantage(done: dict[str, Any]) -> float:
    """How many times more the best selection without mixing loses than the default."""
    rises = [(v["mix"], v["measure"], v["after"]["loss"] - done["before"]["loss"]) for v in done["variants"]]
    alone = min(rise for mix, measure, rise in rises if not mix and measure != "balanced")
    return alone / max(rises[0][2], 1e-9)
