"""A trained model on disk: ``model.safetensors`` and ``config.json``, which names the state size of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gramian.errors import CheckpointError, ConfigError
from gramian.lab.build import build_model
from gramian.lab.config import DataConfig, ModelConfig
from gramian.lab.files import read_json, whole_folder, write_json, write_tensors
from gramian.lab.models import SequenceModel
from gramian.layers.reducible import reducible_layers

__all__ = ["SavedModel", "find_model", "load_model", "save_model"]

FORMAT = "gramian/1"


class SavedModel:
    """A model that was loaded, with what is known of its making."""

    def __init__(self, model: SequenceModel, config: dict[str, Any]) -> None:
        self.model, self.config = model, config

    @property
    def data(self) -> DataConfig:
        """The data it was trained on."""
        return DataConfig.model_validate(self.config["data"])


def save_model(folder: Path, model: SequenceModel, config: dict[str, Any]) -> None:
    """Write `model` to `folder`, whole or not at all.

    `config` holds ``model`` (a `ModelConfig`), ``data``, ``d_input``, ``n_outputs``, ``realization``, and ``tokens``
    and ``head`` where they are not those of a classifier of numbers; the state sizes in it are replaced by those the
    model has now.
    """
    sizes = [layer.d_state for layer in reducible_layers(model).values()]
    stored = {"format": FORMAT, **config, "model": {**config["model"], "d_state": sizes}}
    with whole_folder(folder) as draft:
        write_tensors(draft / "model.safetensors", model.state_dict())
        write_json(draft / "config.json", stored)


def find_model(path: str | Path) -> Path:
    """The folder with the model, given that folder or a run folder."""
    folder = Path(path)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    raise CheckpointError(
        f"'{path}' holds no saved model.",
        "Needed: a folder with config.json and model.safetensors, or a run folder with such a folder 'model' in it.",
    )


def load_model(path: str | Path, tensors: dict[str, Tensor] | None = None) -> SavedModel:
    """The model in a folder or run folder, in eval mode.

    Raises
    ------
    CheckpointError
        If there is none, or its two files do not fit together.
    """
    folder = find_model(path)
    config = read_json(folder / "config.json")
    found = config.get("format") if isinstance(config, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"'{folder / 'config.json'}' has format {found!r}; needed: {FORMAT!r}.")
    try:
        model_config = ModelConfig.model_validate(config["model"])
        with torch.random.fork_rng(devices=[]):
            model = build_model(
                model_config,
                config["d_input"],
                config["n_outputs"],
                config["realization"],
                tokens=config.get("tokens", False),  # models of the first version have numbers as inputs
                head=config.get("head", "classification"),
            )
        model.load_state_dict(tensors or load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CheckpointError(f"the model in '{folder}' cannot be loaded: {error}") from error
    return SavedModel(model.eval(), config)
