"""Token ids to calibrate a language model with: from a file, from text that Python brings along, or random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gramian.errors import DataError

__all__ = ["RANDOM_MEANS", "TokenSource"]

RANDOM_MEANS = (
    "calibrated with random tokens: every state is judged by what it does for text that nobody writes. "
    "Sizes and files come out right; which states stay, and the errors, say little about real text."
)
_BATCH = 8  # sequences
_FORMATS = ".npy, .safetensors, .jsonl, .txt"


@dataclass(frozen=True)
class TokenSource:
    """Where sequences come from, and how many.

    Parameters
    ----------
    name
        A file (.npy and .safetensors with ids, one- or two-dimensional; .jsonl with ``input_ids`` or ``text``; .txt),
        ``"demo"`` for documentation that Python brings along, or ``"random"``.
    length
        Steps of each sequence; longer ones are cut.
    tokens
        How many ids at most; of more, sequences are taken evenly spaced.
    """

    name: str
    length: int = 256
    tokens: int = 16384
    seed: int = 0

    def batches(self, vocabulary: int, tokenizer: Any = None) -> list[dict[str, Tensor]]:
        """What a language model is called with, ids and labels; equal lengths together.

        Parameters
        ----------
        vocabulary
            Ids are below it.
        tokenizer
            Called with text; None where the model brought none.

        Raises
        ------
        DataError
            For a file that is missing, or holds anything but ids of this vocabulary.
        """
        if self.length < 2 or self.tokens < 2:
            raise DataError(
                f"length {self.length} and {self.tokens} tokens were asked for; needed: at least 2 of each."
            )
        kept = self._spread([ids for ids in self._sequences(vocabulary, tokenizer) if len(ids) > 1])
        if not kept:
            raise DataError(f"'{self.name}' holds no sequence of two tokens or more.")
        low, high = (int(f(torch.stack([f(ids) for ids in kept]))) for f in (torch.min, torch.max))
        if low < 0 or high >= vocabulary:
            raise DataError(
                f"'{self.name}' holds ids from {low} to {high}; needed: 0 to {vocabulary - 1}.",
                "The model's vocabulary is no larger; these ids belong to another tokenizer.",
            )
        return [
            {"input_ids": batch, "labels": batch}
            for _, group in groupby(sorted(kept, key=len, reverse=True), key=len)
            for batch in torch.stack(list(group)).split(_BATCH)
        ]

    def _spread(self, sequences: list[Tensor]) -> list[Tensor]:
        """As many as hold `tokens` steps, from all over."""
        total = sum(map(len, sequences))
        count = max(1, len(sequences) * self.tokens // total) if total > self.tokens else len(sequences)
        return [sequences[i * len(sequences) // count] for i in range(count)]

    def _sequences(self, vocabulary: int, tokenizer: Any) -> Iterator[Tensor]:
        if self.name == "random":
            generator = torch.Generator().manual_seed(self.seed)
            count = -(-self.tokens // self.length)
            yield from torch.randint(vocabulary, (count, self.length), generator=generator)
        elif self.name == "demo":
            from pydoc_data.topics import topics

            yield from self._pieces(_encoded("\n\n".join(topics.values()), tokenizer, self.name))
        else:
            yield from self._read(Path(self.name), tokenizer)

    def _read(self, path: Path, tokenizer: Any) -> Iterator[Tensor]:
        if not path.is_file():
            raise DataError(
                f"'{path}' was given to calibrate with, and there is no such file.",
                f"Needed: a file of token ids or text ({_FORMATS}), 'demo' or 'random'.",
            )
        readers = {".npy": _ids_of_array, ".safetensors": _ids_of_tensors}
        try:
            if path.suffix in readers:
                for row in readers[path.suffix](path):
                    yield from self._pieces(row)
            elif path.suffix == ".jsonl":
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    yield from self._pieces(_ids_of_line(line, f"{path}:{number}", tokenizer))
            elif path.suffix == ".txt":
                yield from self._pieces(_encoded(path.read_text(encoding="utf-8"), tokenizer, str(path)))
            else:
                raise DataError(f"'{path}' is of no known format; needed: {_FORMATS}.")
        except (OSError, ValueError, SafetensorError) as error:
            raise error if isinstance(error, DataError) else DataError(f"'{path}' cannot be read: {error}") from error

    def _pieces(self, ids: Tensor) -> Iterator[Tensor]:
        """Pieces of `length`, and what is left over where nothing else is there."""
        whole = ids[: len(ids) - len(ids) % self.length]
        yield from whole.split(self.length) if len(whole) else [ids]


def _ids_of_array(path: Path) -> Tensor:
    return _rows(torch.from_numpy(np.load(path, allow_pickle=False)), str(path))


def _ids_of_tensors(path: Path) -> Tensor:
    tensors = load_file(path)
    if "input_ids" not in tensors and len(tensors) != 1:
        raise DataError(f"'{path}' holds {', '.join(sorted(tensors)) or 'nothing'}; needed: a tensor input_ids.")
    return _rows(tensors.get("input_ids", next(iter(tensors.values()))), str(path))


def _rows(ids: Tensor, where: str) -> Tensor:
    if ids.ndim not in (1, 2) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise DataError(
            f"'{where}' holds {ids.dtype} of shape {tuple(ids.shape)}.",
            "Needed: whole numbers, (tokens,) or (rows, tokens).",
        )
    return ids.long() if ids.ndim == 2 else ids.long()[None]


def _ids_of_line(line: str, where: str, tokenizer: Any) -> Tensor:
    if not line.strip():
        return torch.empty(0, dtype=torch.long)
    row = json.loads(line)
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return _encoded(row["text"], tokenizer, where)
    ids = row.get("input_ids") if isinstance(row, dict) else row
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise DataError(f"'{where}' has neither a list of whole numbers input_ids nor text.")
    return torch.tensor(ids, dtype=torch.long)


def _encoded(text: str, tokenizer: Any, where: str) -> Tensor:
    if tokenizer is None:
        raise DataError(
            f"'{where}' is text, and the model's folder has no tokenizer to read it with.",
            "Which ids a text becomes is known to the model's own tokenizer alone.",
            "Copy the tokenizer's files into the folder, or give ids (.npy, .safetensors, .jsonl with input_ids).",
        )
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
