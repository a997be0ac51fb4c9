"""A whole training of Mamba with a cut in its first tenth, against mambapy at full size throughout.

Steps are timed, not whole runs: mambapy would take hours. The model is that of ``gramian reproduce text``, the blocks,
embedding, head, loss and optimizer are the same for both, and only the layer differs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gramian.compression.cuts import compress_
from gramian.compression.policies import Rank
from gramian.lab.bench import mamba_contestants as contestants
from gramian.lab.bench.kernel_tables import OURS_ALONE, own_section
from gramian.lab.bench.mamba_tables import SETTLED, conditions, samples_of
from gramian.lab.bench.report import Result, Section, Target, targets_section
from gramian.lab.bench.settings import Settings, Shape
from gramian.lab.bench.stock_allocator import AS_IT_COMES
from gramian.lab.bench.timing import Call, Spread, Turns
from gramian.lab.build import build_model
from gramian.lab.config import Config, load_config
from gramian.lab.models import MixerBlock, SequenceModel
from gramian.lab.summary import training_step
from gramian.layers.calibration import Calibration
from gramian.layers.mamba import Mamba

__all__ = ["mamba_training_table"]

CONFIG, LENGTH, TOKENS = "text-small", 256, 256
_FASTER = 30.0  # than mambapy, at least
_GAIN = 2.3  # of a step by the cut, at least

Builders = dict[str, Callable[[], Call]]


def _job(settings: Settings) -> tuple[Config, Shape, int]:
    """The configuration, its shape, and the states after the cut."""
    config = load_config(CONFIG)
    model = config.model
    shape = Shape(config.train.batch_size, LENGTH, model.d_model, model.d_states[0], model.n_layers)
    assert config.compress is not None
    assert config.compress.policy.rank is not None
    cut = config.compress.policy.rank.n
    return config, settings.fit(shape), 5 if settings.small else cut


def _model(config: Config, shape: Shape, states: int) -> SequenceModel:
    """The laboratory's model, always with the same parameters."""
    size = config.model.model_copy(update={"d_model": shape.channels, "d_state": states, "n_layers": shape.blocks})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(size, TOKENS, TOKENS, tokens=True, head="next_token")


def _batch(shape: Shape) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    inputs, targets = torch.randint(TOKENS, (2, shape.batch, shape.length), generator=g).unbind()
    return inputs, targets


def training_builders(settings: Settings) -> Builders:
    """Training steps: ours before and after the cut, mambapy's at full size."""
    config, shape, cut = _job(settings)

    def ours(states: int) -> Call:
        return training_step(config.train, _model(config, shape, states), *_batch(shape))

    def rival() -> Call:
        model = _model(config, shape, shape.states)
        for block in model.blocks:
            assert isinstance(block, MixerBlock)
            assert isinstance(block.mixer, Mamba)
            block.mixer = contestants.mambapy_layer(block.mixer)
        return training_step(config.train, model, *_batch(shape))

    return {
        f"gramian, N {shape.states}": lambda: ours(shape.states),
        f"gramian, N {cut}": lambda: ours(cut),
        f"mambapy, N {shape.states}": rival,
    }


def own_training_builders(settings: Settings) -> Builders:
    """Our training steps before and after the cut."""
    return {name: build for name, build in training_builders(settings).items() if name.startswith("gramian")}


def _seconds_of_a_cut(settings: Settings, rounds: int) -> list[float]:
    """Calibration, ranking and surgery, of fresh models."""
    config, shape, cut = _job(settings)
    assert config.compress is not None
    given = config.compress.calibration
    assert given is not None
    seconds = []
    for _ in range(1 + rounds):
        model = _model(config, shape, shape.states)
        calibration = Calibration([_batch(shape)[:1]] * given.batches, tokens=given.tokens)
        start = time.perf_counter()
        compress_(model, Rank(cut), calibration)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def mamba_training_table(settings: Settings) -> Result:
    """Steps in turns, a cut, and what a whole training comes to."""
    config, shape, cut = _job(settings)
    assert config.compress is not None
    assert config.compress.schedule.at is not None
    steps, at = config.train.steps, config.compress.schedule.at[0]
    cuts = _seconds_of_a_cut(settings, settings.rounds)
    timed, own = conditions(training_builders, settings), conditions(own_training_builders, settings)
    large, small = (f"gramian, N {n}" for n in (shape.states, cut))
    targets, sections = [], []
    for ending, (turns, missing) in timed.items():
        whole = _whole(turns, shape.states, cut, steps, at, statistics.median(cuts))
        mine, rival = (f"{name}, N {shape.states}" for name in ("gramian, cut from", "mambapy"))
        if rival in whole:
            ratio = Spread.of(b / a for a, b in zip(whole[mine], whole[rival], strict=True))
            targets.append(Target(f"whole training, {rival} / {mine} to {cut}{ending}", ratio, ">=", _FASTER))
        gain = own[ending][0].ratio(large, small)
        targets.append(Target(f"training step, {large} / N {cut}{ending}", gain, ">=", _GAIN))
        rows = [(name, turns.spread(name).times(1e3)) for name in turns.samples]
        rows += [(name, f"not run: {reason}") for name, reason in missing.items()]
        sections.append(Section(f"Training step{ending}", ("contestant", "ms"), rows))
        sections.append(own_section(own[ending][0], small, "training step, ms", ending))
        totals = [(name, str(Spread.of(values))) for name, values in whole.items()]
        sections.append(Section(f"Whole training{ending}", ("contestant", "seconds, from those of its steps"), totals))
    sections.append(Section("The cut", ("of", "seconds"), [(f"{shape.blocks} layers", str(Spread.of(cuts)))]))
    note = (
        f"Model, optimizer and schedule of `gramian reproduce text`: {steps} steps, cut after {at}. A whole training "
        "is computed from one step's time: all steps at full size, or those before the cut at full size, the cut with "
        "its calibration, and the others at the small size. Bytes are random here: they cost the same. Validation, "
        "the same for all, is not counted."
    )
    data = {"turns": samples_of(timed), "own_turns": samples_of(own), "cut_seconds": cuts, "steps": steps, "cut_at": at}
    where = str(replace(shape, states=0)).replace(", N 0", "")
    notes = (note, OURS_ALONE, SETTLED, AS_IT_COMES)
    return Result([targets_section(targets), *sections], notes, data, where, "float32")


def _whole(turns: Turns, states: int, cut: int, steps: int, at: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of a training, round by round."""
    full, small, rival = (f"gramian, N {states}", f"gramian, N {cut}", f"mambapy, N {states}")
    samples = turns.samples
    whole = {
        f"gramian, cut from, N {states}": [
            at * a + seconds + (steps - at) * b for a, b in zip(samples[full], samples[small], strict=True)
        ],
        full: [steps * a for a in samples[full]],
    }
    if rival in turns:
        whole[rival] = [steps * a for a in samples[rival]]
    return whole
