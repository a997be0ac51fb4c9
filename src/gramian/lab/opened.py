"""A trained model in a folder, whoever wrote it: ours or one of transformers, to be analysed and cut."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from gramian.errors import ConfigError
from gramian.lab.build import build_calibration, build_data
from gramian.lab.config import CalibrationConfig
from gramian.lab.data.batches import Batches
from gramian.lab.files import read_json, whole_folder
from gramian.lab.saved_model import SavedModel, load_model, save_model
from gramian.lab.token_files import TokenSource
from gramian.layers.calibration import Calibration, TimeVarying
from gramian.layers.reducible import reducible_layers
from gramian.layers.selective.measures import measure_named

__all__ = ["CalibrationRequest", "Opened", "open_model"]


@dataclass(frozen=True)
class CalibrationRequest:
    """What the command line says of calibration data: a `source` of `TokenSource`, and how to learn from it."""

    source: str | None = None
    measure: str | None = None
    tokens: int = 4096
    length: int = 256

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `Calibration`."""
        return {"measure": None if self.measure is None else measure_named(self.measure), "tokens": self.tokens}


class Opened(ABC):
    """A model that was read, and the way back to disk."""

    model: nn.Module

    @property
    def varies(self) -> bool:
        """Whether any layer's spectrum depends on data."""
        return any(isinstance(layer, TimeVarying) for layer in reducible_layers(self.model).values())

    def calibration(self, request: CalibrationRequest) -> Calibration | None:
        """The data for layers that need some; None where none does."""
        if self.varies:
            return self._calibration(request)
        if request.source is not None or request.measure is not None:
            raise ConfigError(
                "--calibration or --measure was given for a model whose layers are all time-invariant.",
                "Their Hankel singular values follow from their parameters; data would change nothing.",
                "Leave the option out.",
            )
        return None

    @abstractmethod
    def _calibration(self, request: CalibrationRequest) -> Calibration: ...

    @abstractmethod
    def save(self, out: Path, layout: str | None) -> None:
        """Write the model as it is now to `out`, whole or not at all."""


class OurModel(Opened):
    """A model that `gramian train` wrote."""

    def __init__(self, saved: SavedModel) -> None:
        self.model, self.saved = saved.model, saved

    def _calibration(self, request: CalibrationRequest) -> Calibration:
        if request.source is not None:
            raise ConfigError(
                f"--calibration {request.source} was given for a model that gramian trained.",
                "It is calibrated with its own training data.",
                "Leave --calibration out.",
            )
        train = build_data(self.saved.data).train
        batches = Batches(train, min(64, len(train)), seed=0)
        calibration = build_calibration(CalibrationConfig.model_validate({}), self.model, batches)
        assert calibration is not None
        return Calibration(calibration.batches, loss=calibration.loss, **request.options)

    def save(self, out: Path, layout: str | None) -> None:
        if layout is not None:
            raise ConfigError(f"--layout {layout} was given; needed: a model of transformers. Ours have one layout.")
        save_model(out, self.saved.model, self.saved.config)


class PretrainedModel(Opened):
    """A model of transformers."""

    def __init__(self, folder: Path) -> None:
        if find_spec("transformers") is None:
            raise ConfigError(
                f"'{folder}' holds a model of transformers, which is not installed.", cure="pip install 'gramian[hf]'"
            )
        from transformers.utils import logging

        from gramian.integrations.pretrained import from_pretrained

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        self.folder = folder
        self.model = from_pretrained(folder)

    def _calibration(self, request: CalibrationRequest) -> Calibration:
        if request.source is None:
            raise ConfigError(
                f"no calibration data was given for {type(self.model).__name__}.",
                "Which of its states matter depends on what it reads.",
                "--calibration FILE (.npy, .safetensors, .jsonl, .txt), --calibration demo (documentation that Python "
                "brings along), or --calibration random (random tokens: sizes come out right, choices mean little).",
            )
        config: Any = self.model.config
        source = TokenSource(request.source, request.length, tokens=2 * request.tokens)
        batches = source.batches(config.get_text_config().vocab_size, self._tokenizer())
        return Calibration(batches, **request.options)

    def _tokenizer(self) -> Any:
        if not list(self.folder.glob("*token*")):
            return None
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"the tokenizer in '{self.folder}' cannot be loaded: {error}") from error

    def save(self, out: Path, layout: str | None) -> None:
        """With the tokenizer and whatever else is beside the weights."""
        from gramian.integrations.pretrained import save_pretrained

        with whole_folder(out) as draft:
            for file in self.folder.iterdir():
                weights = file.suffix in (".safetensors", ".bin", ".pt", ".pth") or file.name.endswith(".index.json")
                if file.is_file() and not weights:
                    shutil.copy2(file, draft / file.name)
            save_pretrained(self.model, draft, layout or "per_layer")  # type: ignore[arg-type]


def open_model(path: Path) -> Opened:
    """The model in a folder of transformers, in one of ours, or in a run folder."""
    config = path / "config.json"
    content = read_json(config) if config.is_file() else {}
    if isinstance(content, dict) and "model_type" in content:
        return PretrainedModel(path)
    return OurModel(load_model(path))
