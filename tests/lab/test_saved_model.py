"""A saved model is the model: in another process, bit for bit, with the size of every layer in plain sight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import python, small_config
from torch import Tensor

from gramian.compression.cuts import compress_
from gramian.compression.policies import Rank
from gramian.errors import CheckpointError
from gramian.lab.build import build_model
from gramian.lab.models import SequenceModel
from gramian.lab.saved_model import FORMAT, find_model, load_model, save_model

CONFIG = small_config(model={"n_layers": 2, "d_state": [9, 7], "dropout": 0.2})
DESCRIPTION = {
    "model": CONFIG.model.model_dump(),
    "data": CONFIG.data.model_dump(),
    "d_input": 1,
    "n_outputs": 10,
    "realization": "real",
}


def cut_model() -> SequenceModel:
    """Two layers of which one was cut, with batch statistics that are not those of a fresh model."""
    torch.manual_seed(0)
    model = build_model(CONFIG.model, 1, 10)
    model.train()(torch.randn(8, 20, 1))
    compress_(model, Rank(5, min_gain=0).except_for("blocks.1.*"))
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", cut_model(), DESCRIPTION)
    return tmp_path / "model"


def samples() -> Tensor:
    return torch.sin(torch.arange(3 * 20.0).view(3, 20, 1))


def test_model_predicts_the_same_bits_in_a_new_process(folder: Path, tmp_path: Path) -> None:
    expected = cut_model()(samples()).detach()
    save_file({"x": samples()}, tmp_path / "x.safetensors")
    code = """
import json, torch
from safetensors.torch import load_file
from gramian.lab.saved_model import load_model
saved = load_model("model")
with torch.no_grad():
    print(json.dumps(saved.model(load_file("x.safetensors")["x"]).view(torch.int32).tolist()))
"""
    assert python(code, tmp_path) == expected.view(torch.int32).tolist()


def test_size_of_every_layer_stands_in_the_configuration(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["d_state"] == [5, 7]
    assert config["format"] == FORMAT
    assert config["model"]["dropout"] == 0.2
    model = load_model(folder).model
    assert [block.lru.d_state for block in model.blocks] == [5, 7]  # type: ignore[union-attr]


def test_every_tensor_comes_back_with_its_bits(folder: Path) -> None:
    stored, state = load_file(folder / "model.safetensors"), cut_model().state_dict()
    assert stored.keys() == state.keys()
    loaded = load_model(folder).model.state_dict()
    for name, value in state.items():
        assert torch.equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype


def test_loaded_model_is_ready_to_predict_and_knows_its_data(folder: Path) -> None:
    saved = load_model(folder)
    assert not any(module.training for module in saved.model.modules())
    assert saved.data == CONFIG.data
    assert all(p.requires_grad for p in saved.model.parameters())


def test_loading_leaves_the_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_model_is_found_in_its_folder_and_in_a_run_folder(folder: Path) -> None:
    assert find_model(folder) == find_model(str(folder.parent)) == folder
    assert load_model(folder.parent).config == load_model(folder).config


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "leftover").write_text("of an older model")
    torch.manual_seed(1)
    save_model(folder, build_model(CONFIG.model, 1, 10), DESCRIPTION)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_model(folder).config["model"]["d_state"] == [9, 7]


def test_saved_realization_is_that_of_the_loaded_layers(tmp_path: Path) -> None:
    model = build_model(CONFIG.model, 1, 10, "complex")
    save_model(tmp_path, model, {**DESCRIPTION, "realization": "complex"})
    layer = load_model(tmp_path).model.blocks[0].lru  # type: ignore[union-attr]
    assert len(layer.spectrum().values) == 9  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("missing", [["config.json"], ["model.safetensors"], ["config.json", "model.safetensors"]])
def test_folder_without_both_files_holds_no_model(folder: Path, missing: list[str]) -> None:
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="holds no saved model"):
        load_model(folder)
    with pytest.raises(CheckpointError, match="holds no saved model"):
        load_model(folder.parent)


@pytest.mark.parametrize("kept", [0, 7, 200, -4])
def test_damaged_tensors_are_refused_by_the_name_of_the_folder(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"the model in '{folder}' cannot be loaded"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"format": "gramian/0"}', "{"])
def test_configuration_of_another_kind_is_refused_by_file_name(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {"d_model": 6}},
        {"model": {**DESCRIPTION["model"], "d_state": [9, 7]}},  # sizes of before the cut
        {"model": {**DESCRIPTION["model"], "d_state": [5, 7], "n_leyers": 2}},
        {"d_input": 2},
        {"d_input": "1"},
        {"n_outputs": 11},
    ],
)
def test_configuration_that_does_not_fit_the_tensors_is_refused(folder: Path, changes: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=f"the model in '{folder}' cannot be loaded"):
        load_model(folder)


@pytest.mark.parametrize("key", ["model", "d_input", "n_outputs", "realization"])
def test_configuration_that_lacks_a_key_is_refused_by_its_name(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"cannot be loaded: '{key}'"):
        load_model(folder)


def test_tensors_that_are_missing_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.bias"):
        load_model(folder)
