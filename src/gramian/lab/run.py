"""A training run: its objects, its folder, and how both go to disk and come back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from gramian.compression.compressor import Compressor
from gramian.compression.rollback import restore, snapshot
from gramian.errors import CheckpointError
from gramian.lab.build import (
    build_calibration,
    build_compressor,
    build_data,
    build_model,
    build_optimizer,
    build_scheduler,
    find_device,
    set_threads,
)
from gramian.lab.config import Config, load_config
from gramian.lab.data import Batches, training_batches
from gramian.lab.environment import environment
from gramian.lab.files import JsonLines, read_tree, whole_file, whole_folder, write_json, write_tree
from gramian.lab.models import SequenceModel
from gramian.lab.monitor import Looks, SpectrumLog
from gramian.lab.saved_model import save_model
from gramian.layers.reducible import Spectrum, reducible_layers

__all__ = ["Run"]

_KEPT_CHECKPOINTS = 2


class Pending(dict[str, float]):
    """Loss, steps and seconds since the last logged row; a roll-back brings them back with the rest."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew, after a row was logged."""
        self.update(loss=0.0, steps=0, seconds=0.0)

    def state_dict(self) -> dict[str, float]:
        """The three numbers."""
        return dict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go back to what `state_dict` returned."""
        self.update(state)


class Run:
    """The objects of a run, built from its configuration, and the folder they write to.

    Parameters
    ----------
    config
        The whole configuration.
    folder
        The run folder; it must be new, unless the run is resumed.

    Raises
    ------
    CheckpointError
        If the folder already holds something.
    """

    def __init__(self, config: Config, folder: Path, *, resumed: bool = False) -> None:
        if not resumed and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(
                f"'{folder}' already holds something.",
                "A run never overwrites another.",
                f"Choose another --run, or continue it: gramian train --resume {folder}",
            )
        self.config, self.folder = config, folder
        set_threads(config.train.threads)
        self.data = build_data(config.data)
        self.batches = training_batches(self.data, config.train.batch_size, config.train.seed)
        self.device = find_device(config.train.device)
        torch.manual_seed(config.train.seed)
        self.realization = "real" if config.compress is None else config.compress.realization
        self.model = self.fresh_model().to(self.device)
        self.optimizer = build_optimizer(config.train, self.model)
        self.scheduler = build_scheduler(config.train, self.optimizer)
        self.pending = Pending()
        self.compressor: Compressor | None = None
        if config.compress is not None:
            # The training split in the order of its first epoch, also where training draws its sequences anew.
            seen = Batches(self.data.train, min(config.train.batch_size, len(self.data.train)), config.train.seed)
            calibration = build_calibration(config.compress.calibration, self.model, seen)
            also = (self.scheduler, self.pending)
            self.compressor = build_compressor(config.compress, self.model, self.optimizer, also, calibration)
        self.step, self.seconds = 0, 0.0
        self.best: dict[str, Any] | None = None
        self.looked: dict[str, Spectrum] = {}  # spectra of the last look, or right after the last cut
        self.metrics, self.events = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "events.jsonl")
        self.spectra = SpectrumLog(folder / "spectra.safetensors")
        compress = config.compress
        self.looks = Looks(None, None) if compress is None else Looks(compress.analyze_every, compress.analyze_share)

    @classmethod
    def begin(cls, config: Config, folder: Path) -> Run:
        """A new run; nothing is written before everything could be built."""
        run = cls(config, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "config.yaml") as draft:
            draft.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False))
        write_json(folder / "environment.json", environment())
        return run

    @classmethod
    def resume(cls, folder: Path) -> Run:
        """The run in `folder` as of its last checkpoint; later rows of its journals are dropped."""
        if not (folder / "config.yaml").is_file():
            raise CheckpointError(f"'{folder}' is no run folder: it has no config.yaml.")
        run = cls(load_config(folder / "config.yaml"), folder, resumed=True)
        checkpoints = sorted((folder / "checkpoints").glob("step_*"))
        if checkpoints:
            run._load(read_tree(checkpoints[-1]))
        else:
            run._rewind({"metrics": 0, "events": 0, "spectra": []})
        return run

    def fresh_model(self) -> SequenceModel:
        """The model as it is before training, from torch's global generator."""
        data = self.data
        return build_model(
            self.config.model, data.d_input, data.n_classes, self.realization, tokens=data.tokens, head=data.head
        )

    @property
    def sizes(self) -> dict[str, int]:
        """States of every reducible layer."""
        return {name: layer.d_state for name, layer in reducible_layers(self.model).items()}

    @property
    def size_row(self) -> dict[str, int]:
        """The sizes under the names they have in the journal."""
        sizes = self.sizes
        return {"state/total": sum(sizes.values()), **{f"state/{name}": size for name, size in sizes.items()}}

    def save_checkpoint(self) -> None:
        """All that is needed to go on bit by bit as if nothing had happened; the last two are kept.

        Those of later steps are from before a roll-back: they go, or a resumed run would begin with them.
        """
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "pending": self.pending,
            "snapshot": snapshot(self.model, self.optimizer, (self.scheduler,)),
            "compressor": None if self.compressor is None else self.compressor.state_dict(),
            "looked": {name: spectrum.state_dict() for name, spectrum in self.looked.items()},
            "looks": self.looks.state_dict(),
            "written": {"metrics": len(self.metrics), "events": len(self.events), "spectra": self.spectra.keys},
        }
        now = self.folder / "checkpoints" / f"step_{self.step:08d}"
        with whole_folder(now) as draft:
            write_tree(draft, state)
        checkpoints = sorted(now.parent.glob("step_*"))
        kept = [path for path in checkpoints if path <= now][-_KEPT_CHECKPOINTS:]
        for path in checkpoints:
            if path not in kept:
                shutil.rmtree(path)

    def _load(self, state: dict[str, Any]) -> None:
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.pending.load_state_dict(state["pending"])
        restore(state["snapshot"], self.model, self.optimizer, (self.scheduler,))
        if self.compressor is not None:
            self.compressor.load_state_dict(state["compressor"])
        self.looked = {name: Spectrum.from_state_dict(s) for name, s in state["looked"].items()}
        self.looks.load_state_dict(state["looks"])
        self._rewind(state["written"])

    def _rewind(self, written: dict[str, Any]) -> None:
        """Drop from the journals what was written after the checkpoint."""
        self.metrics.truncate(written["metrics"])
        self.events.truncate(written["events"])
        self.spectra.keep(written["spectra"])

    def save_model(self) -> None:
        """Write the model as it is now to the folder ``model`` of the run."""
        description = {
            "model": self.config.model.model_dump(),
            "data": self.config.data.model_dump(),
            "d_input": self.data.d_input,
            "n_outputs": self.data.n_classes,
            "tokens": self.data.tokens,
            "head": self.data.head,
            "realization": self.realization,
            "step": self.step,
        }
        save_model(self.folder / "model", self.model, description)
