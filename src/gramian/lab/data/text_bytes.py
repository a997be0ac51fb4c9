"""Text, byte by byte: what Python says about itself, in its help pages or in the sources of its library."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from gramian.errors import DataError
from gramian.lab.data.samples import import_extra
from gramian.lab.data.sequences import SequenceData, Split
from gramian.lab.data.windows import Windowed, Windows, next_token_split, parted

__all__ = ["TextBytes", "load_text_bytes"]


class TextBytes(Windowed):
    """Parameters of the task.

    Parameters
    ----------
    corpus
        ``topics``: the help pages behind ``help()``, about half a MB; ``library``: the modules that stand alone in
        Python's standard library, about 5 MB; ``files``: all ``*.txt`` in the root.
    most
        Bytes read at most.
    """

    SCALES: ClassVar = {
        "tiny": {"length": 64, "n_train": None, "n_valid": 50, "n_test": 100, "fresh": False},
        "small": {"length": 256, "n_train": None, "n_valid": 100, "n_test": None, "fresh": True},
        "paper": {"corpus": "library", "length": 1_024, "n_train": None, "n_valid": 100, "n_test": None, "fresh": True},
    }

    corpus: Literal["topics", "library", "files"] = "topics"
    most: int = Field(10**8, ge=1_000)


def load_text_bytes(parameters: TextBytes, root: Path | None = None, seed: int = 0) -> SequenceData:
    """The text as a language model sees it: bytes ``(n, length)``, and at each step the next byte as target.

    Training, validation and test are the first eight, the ninth and the last tenth of the text. The text depends on
    the version of Python; `source` has the digest of what was read.

    Raises
    ------
    DataError
        If there is nothing to read, or less than a window in some part.
    """
    text = _read(parameters.corpus, root)[: parameters.most]
    width = parameters.length + 1
    parts = [Windows([part], width, parameters.length) for part in parted(np.frombuffer(text, dtype=np.uint8))]
    limits = (parameters.n_train, parameters.n_valid, parameters.n_test)
    train, valid, test = (
        next_token_split(windows.laid(limit, np.random.default_rng([seed, i])), "byte")
        for i, (windows, limit) in enumerate(zip(parts, limits, strict=True))
    )

    def draw(rng: np.random.Generator, n: int) -> Split:
        return next_token_split(parts[0].drawn(rng, n), "byte")

    where = root if parameters.corpus == "files" else f"Python {platform.python_version()}"
    values = ", ".join(f"{key} {value}" for key, value in parameters.model_dump().items())
    digest = hashlib.sha256(text).hexdigest()
    return SequenceData.from_splits(
        "text_bytes",
        train=train,
        valid=valid,
        test=test,
        n_classes=256,
        n_tokens=256,
        origin=f"{parameters.corpus} of {where}, {len(text)} bytes with sha256 {digest}; {values}; seed {seed}",
        fresh=draw if parameters.fresh else None,
    )


def _read(corpus: str, root: Path | None) -> bytes:
    if corpus == "topics":
        topics = import_extra("pydoc_data.topics").topics
        return "\n\n".join(topics[name] for name in sorted(topics)).encode()
    if corpus == "library":
        folder, files = Path(sysconfig.get_path("stdlib")), "*.py"
    elif root is not None:
        folder, files = root, "*.txt"
    else:
        raise DataError("data.corpus=files reads the files of a folder, and none was given.", cure="data.root=FOLDER")
    text = b"\n\n".join(path.read_bytes() for path in sorted(folder.glob(files)))
    if not text:
        raise DataError(f"'{folder}' has no text: there is no {files}, or all are empty.")
    return text
