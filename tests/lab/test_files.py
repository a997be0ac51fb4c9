"""Files are written whole or not at all, and read as they were written."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import same
from torch import Tensor

from gramian.errors import CheckpointError
from gramian.lab.files import (
    JsonLines,
    read_json,
    read_tree,
    whole_file,
    whole_folder,
    write_json,
    write_tensors,
    write_tree,
)

NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**70), 2**70)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def tensor_of(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    numbers = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    return torch.view_as_complex(numbers).to(dtype) if dtype.is_complex else numbers[..., 0].abs().to(dtype)


TENSORS = st.builds(
    tensor_of,
    st.sampled_from((*DTYPES, torch.complex128)),
    st.sampled_from([(), (0,), (3,), (2, 3)]),
    st.integers(0, 9),
)
TREES = st.recursive(
    SCALARS | TENSORS,
    lambda node: (
        st.lists(node, max_size=3)
        | st.lists(node, max_size=3).map(tuple)
        | st.dictionaries(st.none() | st.booleans() | st.integers(-3, 12) | st.text(max_size=3), node, max_size=3)
    ),
    max_leaves=12,
)


@given(TREES)
@settings(max_examples=80)
def test_tree_comes_back_with_its_types_order_and_bits(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), tree)
        assert same(read_tree(Path(folder)), tree)


def test_tree_may_use_the_names_of_its_own_file_format(tmp_path: Path) -> None:
    tree = {"$tensor": "0", "$items": [], "$tuple": (1,), "complex": True, "inner": {"$items": [[1, 2]]}}
    write_tree(tmp_path, tree)
    assert same(read_tree(tmp_path), tree)


def test_views_conjugates_and_shared_memory_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    z = torch.complex(base, -base)
    tree = {"all": base, "column": base[:, 1], "transposed": base.mT, "conj": z.conj(), "imag": z.conj().imag}
    write_tree(tmp_path, tree)
    for key, value in read_tree(tmp_path).items():
        assert torch.equal(value, tree[key])


def test_parameters_are_stored_without_their_graph(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    write_tree(tmp_path, [parameter, parameter * 2])
    back = read_tree(tmp_path)
    assert not back[0].requires_grad
    assert torch.equal(back[1], torch.full((3,), 2.0))


def test_not_a_number_survives(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x": float("nan"), "y": [float("inf"), -float("inf")], "t": torch.tensor([float("nan")])})
    back = read_tree(tmp_path)
    assert back["x"] != back["x"]
    assert back["y"] == [float("inf"), -float("inf")]
    assert bool(back["t"].isnan().all())


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"bytes", 1j])
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path: Path, thing: object) -> None:
    with pytest.raises(CheckpointError, match=f"a {type(thing).__name__} cannot be stored"):
        write_tree(tmp_path, {"fine": 1, "odd": [thing]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tree.json", "tensors.safetensors"])
def test_damaged_or_missing_tree_is_refused_by_file_name(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, {"x": torch.ones(3)})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=name):
        read_tree(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read_tree(tmp_path)


def test_file_keeps_its_old_content_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as draft:
        draft.write_text("old")

    def fail() -> None:
        with whole_file(path) as draft:
            draft.write_text("half of the n")
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_file_does_not_change_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with whole_file(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("exists", [False, True])
def test_folder_stays_as_it_was_when_the_block_raises(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "folder"
    if exists:
        path.mkdir()
        (path / "a").write_text("old")

    def fail() -> None:
        with whole_folder(path) as draft:
            (draft / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    assert not exists or (path / "a").read_text() == "old"


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with whole_folder(path) as draft:
            (draft / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


def test_content_that_is_no_json_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("content", [None, "", '{"a": '])
def test_json_that_is_missing_or_damaged_is_refused_by_name(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"x\.json' cannot be read"):
        read_json(path)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    journal = JsonLines(tmp_path / "j.jsonl")
    assert journal.rows() == []
    rows = [{"step": i, "text": "a\nb\u2028c", "x": 0.1 * i} for i in range(5)]
    for row in rows:
        journal.append(row)
    assert JsonLines(journal.path).rows() == rows
    assert len(journal) == 5


def test_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    journal = JsonLines(tmp_path / "j.jsonl")
    journal.append({"step": 1})
    whole = json.dumps({"step": 2, "loss": 0.25}) + "\n"
    before = journal.path.read_text()
    for length in range(len(whole)):
        journal.path.write_text(before + whole[:length])
        assert journal.rows() == [{"step": 1}]
        assert len(journal) == 1
    journal.path.write_text(before + whole)
    assert len(journal) == 2


def test_truncated_journal_goes_on_after_its_last_whole_row(tmp_path: Path) -> None:
    journal = JsonLines(tmp_path / "j.jsonl")
    for step in range(4):
        journal.append({"step": step})
    with journal.path.open("a") as stream:
        stream.write('{"step": 4, "lo')
    journal.truncate(3)
    journal.append({"step": 3, "again": True})
    assert journal.rows() == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    assert list(tmp_path.iterdir()) == [journal.path]


def test_tensor_file_holds_copies_of_views_on_one_memory(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = torch.arange(6.0)
    write_tensors(tmp_path / "t.safetensors", {"a": base, "b": base.view(2, 3).mT})
    back = load_file(tmp_path / "t.safetensors")
    assert torch.equal(back["a"], base)
    assert torch.equal(back["b"], base.view(2, 3).mT)
