"""Every configuration that is shipped: its own resolved form, early cuts, and it can be trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from random_genomes import write_genome
from small_runs import WITHOUT_A_PAPER

from gramian.lab.build import build_schedule
from gramian.lab.config import SHIPPED, load_config
from gramian.lab.experiments.reproduce import EXPERIMENTS
from gramian.lab.run import Run
from gramian.lab.train import Watcher, _one_step

NAMES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configuration_is_its_own_resolved_form(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.name == name
    resolved = tmp_path / "config.yaml"
    resolved.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False))
    assert load_config(resolved) == config


LATER = {"mqar-small": 0.2, "mqar-many-small": 0.3}
"""Where recall is learned later, it is cut later: when the full model has learned it."""


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configuration_cuts_only_in_the_first_tenth_or_soon_after(name: str) -> None:
    config = load_config(name)
    assert config.compress is not None
    last = build_schedule(config.compress.schedule).steps[-1]
    assert last <= config.train.steps * LATER.get(name, 0.1)


def test_demo_and_the_scales_of_every_experiment_are_shipped() -> None:
    published = set(EXPERIMENTS) - WITHOUT_A_PAPER
    assert {"demo", "smnist-tiny"} <= set(NAMES)
    assert {f"{name}-small" for name in EXPERIMENTS} | {f"{name}-paper" for name in published} <= set(NAMES)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few random records in the format of CIFAR-10's binary release."""
    root, rng = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (10, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10)
        records.tofile(root / f"{name}.bin")
    return root


@pytest.fixture(scope="module")
def genomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random chromosomes."""
    root = tmp_path_factory.mktemp("genomes")
    for seed, species in enumerate(("minor", "maior")):
        write_genome(root / f"{species}.fna.gz", f"Musca {species}", 45_000, seed)
    return root


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configuration_builds_and_trains_two_steps(
    name: str, tmp_path: Path, cifar: Path, genomes: Path
) -> None:
    files = {"scifar": cifar, "dna": genomes}.get(name.rpartition("-")[0], tmp_path)
    run = Run(load_config(name, ["train.batch_size=2", f"data.root={files}"]), tmp_path / "run")
    for _ in range(2):
        _one_step(run, Watcher())
    assert run.step == 2
    assert 0 < run.pending["loss"] / 2 < 20
    for parameter in run.model.parameters():
        state = run.optimizer.state[parameter]
        assert state["step"] == 2
        assert state["exp_avg"].abs().sum() > 0
        assert bool(parameter.isfinite().all())
