"""Texts byte by byte."""

from __future__ import annotations

import hashlib
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from gramian.errors import DataError
from gramian.lab.data import load_data


def written(folder: Path, text: bytes) -> Path:
    (folder / "b.txt").write_bytes(text[100:])
    (folder / "a.txt").write_bytes(text[:98])  # files are joined by an empty line
    return folder


def test_text_is_what_was_read_and_its_digest_is_recorded(tmp_path: Path) -> None:
    text = np.random.default_rng(0).integers(0, 256, 2_000, dtype=np.uint8).tobytes()
    text = text[:98] + b"\n\n" + text[100:]
    data = load_data("text_bytes", written(tmp_path, text), corpus="files", length=50, n_valid=None)
    assert hashlib.sha256(text).hexdigest() in data.source
    assert (data.length, data.d_input, data.n_classes, data.head) == (50, 256, 256, "next_token")
    again = torch.cat([data.train.inputs[:1, :1], data.train.targets.reshape(1, -1)], 1)
    assert bytes(again[0].tolist()) == text[: 50 * len(data.train) + 1]
    assert bytes(data.valid.inputs[0].tolist()) == text[1_600:1_650]
    assert bytes(data.test.inputs[0].tolist()) == text[1_800:1_850]


def test_help_pages_are_read_in_the_order_of_their_names() -> None:
    data = load_data("text_bytes", scale="tiny")
    expected = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    assert bytes(data.train.inputs[0].tolist()) == expected[:64]
    assert hashlib.sha256(expected).hexdigest() in data.source
    assert data.test.unit == "byte"


def test_library_is_read_as_far_as_it_is_wanted() -> None:
    data = load_data("text_bytes", scale="tiny", corpus="library", most=20_000)
    assert "library of Python" in data.source
    assert "20000 bytes" in data.source


def test_fresh_windows_come_from_the_training_part_only(tmp_path: Path) -> None:
    text = bytes([1] * 1_600 + [2] * 200 + [3] * 200)
    (tmp_path / "a.txt").write_bytes(text)
    data = load_data("text_bytes", tmp_path, corpus="files", length=20, fresh=True)
    assert data.fresh is not None
    drawn = data.fresh(np.random.default_rng(0), 500)
    assert bool((drawn.inputs == 1).all())
    assert bool((drawn.targets == 1).all())


def test_nothing_to_read_is_said_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no text: there is no \*\.txt"):
        load_data("text_bytes", tmp_path, corpus="files")
    with pytest.raises(DataError, match=r"data\.root=FOLDER"):
        load_data("text_bytes", corpus="files")
    with pytest.raises(DataError, match="no window of 257 tokens: its longest stretch has 100"):
        load_data("text_bytes", most=1_000)
