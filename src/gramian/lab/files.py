"""Files of a run: written whole or not at all, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gramian.errors import CheckpointError

__all__ = [
    "JsonLines",
    "read_json",
    "read_tree",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_tensors",
    "write_tree",
]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write to; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A draft folder beside `path`; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield draft
        draft.chmod(0o755)
        if path.exists():
            old = draft.with_name(draft.name + ".old")
            path.rename(old)
            draft.rename(path)
            shutil.rmtree(old)
        else:
            draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Indented JSON with a final newline."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; a `CheckpointError` that names the file if it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"'{path}' cannot be read: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file."""
    with whole_file(path) as draft:
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, draft)


def write_tree(folder: Path, tree: Any) -> None:
    """Nested dictionaries, lists, tuples, numbers, strings and tensors, as ``tree.json`` and ``tensors.safetensors``.

    Nothing is pickled. Complex tensors are stored as real pairs.
    """
    tensors: dict[str, Tensor] = {}

    def plain(node: Any) -> Any:
        if isinstance(node, Tensor):
            key = str(len(tensors))
            tensors[key] = torch.view_as_real(node.resolve_conj()) if node.is_complex() else node
            return {"$tensor": key, "complex": node.is_complex()}
        if isinstance(node, Mapping):
            return {"$items": [[plain(key), plain(value)] for key, value in node.items()]}
        if isinstance(node, tuple):
            return {"$tuple": [plain(value) for value in node]}
        if isinstance(node, list):
            return [plain(value) for value in node]
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise CheckpointError(f"a {type(node).__name__} cannot be stored in a checkpoint: {node!r}")

    content = plain(tree)
    write_tensors(folder / "tensors.safetensors", tensors)
    write_json(folder / "tree.json", content)


def read_tree(folder: Path) -> Any:
    """What `write_tree` wrote."""
    content = read_json(folder / "tree.json")
    try:
        tensors = load_file(folder / "tensors.safetensors")
    except Exception as error:
        raise CheckpointError(f"'{folder / 'tensors.safetensors'}' cannot be read: {error}") from error

    def rebuilt(node: Any) -> Any:
        if isinstance(node, list):
            return [rebuilt(value) for value in node]
        if isinstance(node, dict) and "$tensor" in node:
            tensor = tensors[node["$tensor"]]
            return torch.view_as_complex(tensor) if node["complex"] else tensor
        if isinstance(node, dict) and "$tuple" in node:
            return tuple(rebuilt(value) for value in node["$tuple"])
        if isinstance(node, dict):
            return {rebuilt(key): rebuilt(value) for key, value in node["$items"]}
        return node

    return rebuilt(content)


class JsonLines:
    """An append-only file of JSON objects, one a line, each written by a single system call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return len(self.rows())

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row at the end."""
        line = (json.dumps(row) + "\n").encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows; a last line that a crash cut short is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate(self, count: int) -> None:
        """Keep the first `count` rows: a resumed run writes the others again."""
        kept = self.rows()[:count]
        with whole_file(self.path) as draft:
            draft.write_text("".join(json.dumps(row) + "\n" for row in kept))
