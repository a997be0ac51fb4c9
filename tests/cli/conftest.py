"""An empty folder to call the command line in, and a small run to call it on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from command_line import Gramian, in_this_process

CONFIG = """\
model: {d_model: 6, d_state: 12, dropout: 0.2}
data: {name: digits}
train: {steps: 20, batch_size: 32, lr: 5.0e-3, seed: 3, log_every: 5, eval_every: 10, checkpoint_every: 10}
compress:
  policy: {energy: {tau: 0.1}}
  schedule: {at: [8, 16]}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small models: two threads that wait for each other are slower
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gramian(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Gramian:
    """The command line in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")
    return in_this_process(monkeypatch, capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; nobody changes it."""
    from gramian.lab.config import load_config
    from gramian.lab.train import train

    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    train(load_config(folder / "small.yaml"), folder / "run")
    return folder / "run"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path
