"""`gramian analyze` and `gramian compress` on models of transformers, and on ours with layers that vary with time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import Gramian, in_this_process
from gramian.integrations.pretrained import from_pretrained
from gramian.layers.reducible import reducible_layers
from mixer_models import logits, tiny_model, tokens, transformers


@pytest.fixture
def gramian(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Gramian:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return in_this_process(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers with a tokenizer, and ids to calibrate with; nobody changes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    tiny_model("Mamba").save_pretrained(path)
    words = {character: i for i, character in enumerate("?abcdefghijklmnopqrstuvwxyz .,")}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(path)
    np.save(path / "ids.npy", tokens(7, batch=8, length=20).numpy())
    return path


def d_states(path: Path) -> list[int]:
    return [layer.d_state for layer in reducible_layers(from_pretrained(path)).values()]


def test_analyze_says_what_compress_keeps(gramian: Gramian, folder: Path) -> None:
    data = ("--calibration", folder / "ids.npy")
    asked = gramian("analyze", folder, *data, "--tau", 0.3, "--tau", 0.05, "--json")
    rows = json.loads(asked.out)
    assert [row["layer"] for row in rows] == ["backbone.layers.0.mixer", "backbone.layers.1.mixer"]
    assert all(len(row["values"]) == row["d_state"] == 8 and row["norm"] is None for row in rows)
    made = gramian("compress", folder, "-o", "small", "--tau", 0.3, *data)
    assert (asked.code, made.code) == (0, 0)
    assert d_states(Path("small")) == [row["kept"]["0.3"]["d_state"] for row in rows]
    table = gramian("analyze", folder, *data)
    assert "no a-priori guarantee" in table.out
    assert "backbone.layers.1.mixer" in table.out


@pytest.mark.parametrize("layout", [None, "per_layer", "uniform"])
def test_compressed_folder_is_complete(layout: str | None, gramian: Gramian, folder: Path) -> None:
    more = () if layout is None else ("--layout", layout)
    made = gramian("compress", folder, "-o", "small", "--fraction", 0.5, "--calibration", folder / "ids.npy", *more)
    assert made.code == 0, made.err
    assert "8 -> 4" in made.out
    assert d_states(Path("small")) == [4, 4]
    assert transformers.AutoTokenizer.from_pretrained("small")("ab c")["input_ids"] == [1, 2, 27, 3]
    distance = logits(from_pretrained("small"), tokens()) - logits(from_pretrained(folder), tokens())
    assert 0 < float(distance.norm()) < 0.3 * float(logits(from_pretrained(folder), tokens()).norm())
    assert [p.name for p in Path().iterdir()] == ["small"]


def test_sizes_are_rounded_and_kept_up(gramian: Gramian, folder: Path) -> None:
    data = ("--calibration", folder / "ids.npy")
    assert gramian("compress", folder, "-o", "four", "--rank", 3, "--round-to", "pow2", *data).code == 0
    assert gramian("compress", folder, "-o", "six", "--rank", 4, "--round-to", 3, *data).code == 0
    assert gramian("compress", folder, "-o", "five", "--rank", 1, "--at-least", 5, *data).code == 0
    assert [d_states(Path(name)) for name in ("four", "six", "five")] == [[4, 4], [6, 6], [5, 5]]


def test_calibration_data_come_from_text_or_from_nowhere(gramian: Gramian, folder: Path) -> None:
    Path("text.txt").write_text("some words, again and again. " * 40)
    few = ("--tokens", 200, "--length", 20, "--rank", 3)
    for source in ("text.txt", "demo"):
        made = gramian("compress", folder, "-o", f"from-{source}", "--calibration", source, *few)
        assert (made.code, made.err) == (0, "")
        assert d_states(Path(f"from-{source}")) == [3, 3]
    made = gramian("compress", folder, "-o", "from-nothing", "--calibration", "random", *few)
    assert made.code == 0
    assert "random tokens" in made.err


def test_measures_with_gradients_find_the_models_loss(gramian: Gramian, folder: Path) -> None:
    asked = gramian("analyze", folder, "--calibration", folder / "ids.npy", "--measure", "taylor", "--json")
    assert asked.code == 0, asked.err
    assert all(row["measure"].startswith("taylor") for row in json.loads(asked.out))


def test_a_dry_run_writes_nothing(gramian: Gramian, folder: Path) -> None:
    made = gramian("compress", folder, "-o", "small", "--rank", 2, "--calibration", folder / "ids.npy", "--dry-run")
    assert made.code == 0
    assert "8 -> 2" in made.out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no calibration data was given"),
        (("--calibration", "missing.npy"), "no such file"),
        (("--calibration", "random", "--measure", "tailor"), "Did you mean 'taylor'"),
        (("--calibration", "random", "--layout", "uniformly"), "Did you mean 'uniform'"),
        (("--calibration", "random", "--tau", 0.1), "exactly one of"),
        (("--calibration", "random", "--length", 1), "at least 2 of each"),
        (("--calibration", "random", "--round-to", "three"), "round_to='three' was given"),
    ],
)
def test_bad_input_is_answered_and_nothing_is_written(
    arguments: tuple[Any, ...], message: str, gramian: Gramian, folder: Path
) -> None:
    made = gramian("compress", folder, "-o", "small", "--rank", 3, *arguments)
    assert made.code == 2
    assert message in made.err
    assert not list(Path().iterdir())


def test_broken_folders_are_answered(gramian: Gramian, folder: Path) -> None:
    broken = {"unknown": {"model_type": "never-heard-of"}, "empty": {"model_type": "mamba"}, "none": {"a": 1}}
    for name, content in broken.items():
        Path(name).mkdir()
        (Path(name) / "config.json").write_text(json.dumps(content))
        made = gramian("analyze", name, "--calibration", "random")
        assert made.code == 2, name
        assert f"'{name}'" in made.err


def test_a_failure_while_writing_leaves_nothing(
    gramian: Gramian, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(transformers.MambaForCausalLM, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        gramian("compress", folder, "-o", "small", "--rank", 3, "--calibration", folder / "ids.npy")
    assert not list(Path().iterdir())


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours whose layers vary with time."""
    from gramian.lab.config import load_config
    from gramian.lab.train import train

    path = tmp_path_factory.mktemp("ours")
    (path / "small.yaml").write_text(
        "model: {layer: mamba, d_model: 6, d_state: 6}\n"
        "data: {name: digits}\n"
        "train: {steps: 2, batch_size: 16, lr: 1.0e-3, eval_every: 2}\n"
    )
    train(load_config(path / "small.yaml"), path / "run")
    return path / "run"


def test_our_models_are_calibrated_with_their_own_data(gramian: Gramian, ours: Path) -> None:
    asked = gramian("analyze", ours, "--tokens", 256, "--json")
    assert asked.code == 0, asked.err
    assert all(len(row["values"]) == 6 for row in json.loads(asked.out))
    made = gramian("compress", ours, "-o", "small", "--rank", 3, "--tokens", 256)
    assert made.code == 0, made.err
    assert "6 -> 3" in made.out
    refused = gramian("compress", ours, "-o", "smaller", "--rank", 3, "--calibration", "random")
    assert (refused.code, Path("smaller").exists()) == (2, False)
    assert gramian("compress", ours, "-o", "smaller", "--rank", 3, "--layout", "uniform").code == 2
    assert not Path("smaller").exists()
