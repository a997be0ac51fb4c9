"""Token ids from files: what is read, what is refused, and how much of it is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gramian.errors import DataError
from gramian.lab.token_files import TokenSource


def letters(text: str, **_: Any) -> dict[str, list[int]]:
    """A tokenizer that knows the letters a to z, and 0 for all else."""
    return {"input_ids": [ord(c) - 96 if "a" <= c <= "z" else 0 for c in text.lower()]}


def ids(batches: list[dict[str, Tensor]]) -> list[list[int]]:
    return [row for batch in batches for row in batch["input_ids"].tolist()]


def test_one_row_of_ids_becomes_sequences_of_the_length(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(25))
    batches = TokenSource(str(tmp_path / "ids.npy"), length=8).batches(25)
    assert ids(batches) == [list(range(8 * i, 8 * i + 8)) for i in range(3)]
    assert all(torch.equal(batch["input_ids"], batch["labels"]) for batch in batches)


def test_rows_stay_apart_and_only_equal_lengths_share_a_batch(tmp_path: Path) -> None:
    lines = [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5, 6, 7]}, {"input_ids": [9]}, {"input_ids": [3, 2, 1]}]
    (tmp_path / "ids.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    batches = TokenSource(str(tmp_path / "ids.jsonl")).batches(10)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(1, 4), (2, 3)]
    assert ids(batches) == [[4, 5, 6, 7], [1, 2, 3], [3, 2, 1]]


@pytest.mark.parametrize("name", ["input_ids", "anything"])
def test_safetensors_hold_one_tensor_or_input_ids(name: str, tmp_path: Path) -> None:
    rows = torch.arange(12).view(2, 6)
    save_file({name: rows}, tmp_path / "ids.safetensors")
    assert ids(TokenSource(str(tmp_path / "ids.safetensors"), length=6).batches(12)) == rows.tolist()


def test_text_is_read_with_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abcdef")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "cab"}))
    assert ids(TokenSource(str(tmp_path / "text.txt"), length=3).batches(27, letters)) == [[1, 2, 3], [4, 5, 6]]
    assert ids(TokenSource(str(tmp_path / "text.jsonl")).batches(27, letters)) == [[3, 1, 2]]
    demo = ids(TokenSource("demo", length=50, tokens=500).batches(27, letters))
    assert [len(row) for row in demo] == [50] * 10
    assert {0, 5, 20} <= {i for row in demo for i in row}


def test_of_a_long_file_sequences_from_all_over_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(1000))
    found = ids(TokenSource(str(tmp_path / "ids.npy"), length=10, tokens=50).batches(1000))
    assert [row[0] for row in found] == [0, 200, 400, 600, 800]


def test_random_tokens_are_the_same_for_the_same_seed() -> None:
    one, same, other = (ids(TokenSource("random", 16, 64, seed=s).batches(9)) for s in (0, 0, 1))
    assert one == same != other
    assert len(one) == 4
    assert {i for row in one for i in row} == set(range(9))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ids.npy", np.array([0.5, 1.0]), "needed: whole numbers|Needed: whole numbers"),
        ("ids.npy", np.zeros((2, 2, 2), dtype=int), r"shape \(2, 2, 2\)"),
        ("ids.npy", np.array([1, 2, 30]), "ids from 1 to 30; needed: 0 to 9"),
        ("ids.npy", np.array([-1, 2]), "ids from -1 to 2; needed: 0 to 9"),
        ("ids.npy", np.array([3]), "no sequence of two tokens"),
        ("ids.npy", "no numpy", "cannot be read"),
        ("ids.jsonl", '{"input_ids": [1, "2"]}', r"ids.jsonl:1' has neither"),
        ("ids.jsonl", "{", "cannot be read"),
        ("ids.safetensors", "nothing", "cannot be read"),
        ("ids.csv", "1,2", "of no known format"),
        ("text.txt", "words", "no tokenizer"),
    ],
)
def test_what_holds_no_ids_is_refused(file: str, content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / file
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content)
    with pytest.raises(DataError, match=message):
        TokenSource(str(path)).batches(10)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        TokenSource(str(tmp_path / "ids.npy")).batches(10)
    with pytest.raises(DataError, match="at least 2 of each"):
        TokenSource("random", length=1).batches(10)
