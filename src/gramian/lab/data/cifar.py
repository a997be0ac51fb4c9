"""Sequential CIFAR-10: 1024 pixels, one a step, in colour or grey, from the user's copy of either release."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramian.errors import DataError
from gramian.lab.data.samples import Samples, image_data
from gramian.lab.data.sequences import SequenceData

__all__ = ["load_cifar10"]

_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_PIXELS = 32 * 32
_RECORD_BYTES = 1 + 3 * _PIXELS
# What the unpickler raises on bytes that are no pickle, or half a one.
_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


def load_cifar10(root: Path | None, seed: int = 0, *, gray: bool = False) -> SequenceData:
    """CIFAR-10 images as sequences of 1024 pixels, row by row, each channel standardised by the training pixels.

    Reads the binary release, or else the Python release, from `root` or the folder its archive unpacks to. A
    stratified tenth of the training images, chosen by `seed`, is the validation set: 45000 / 5000 / 10000 of the
    published files; shorter files of the same format are read as well.

    Parameters
    ----------
    root
        The folder with the files.
    seed
        Chooses the validation set.
    gray
        One channel, the luma 0.299 R + 0.587 G + 0.114 B of ITU-R BT.601 rounded to a byte, in place of three.

    Returns
    -------
    SequenceData
        Inputs ``(n, 1024, 3)`` or ``(n, 1024, 1)`` float32, 10 classes.

    Raises
    ------
    DataError
        If files are missing, truncated, of another format, or pickles of anything but CIFAR-10 batches.

    References
    ----------
    A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    name = "cifar10-gray" if gray else "cifar10"
    parts = [_gray(_read(path)) if gray else _read(path) for path in _find(name, root)]
    *batches, test = parts
    published = Samples(
        np.concatenate([batch.values for batch in batches]), np.concatenate([batch.labels for batch in batches])
    )
    train, valid = published.hold_out(max(1, len(published) // 10), np.random.default_rng(seed))
    origin = f"CIFAR-10, files in {root}, validation held out by seed {seed}"
    return image_data(name, train=train, valid=valid, test=test, n_classes=10, origin=origin)


def _find(name: str, root: Path | None) -> list[Path]:
    """The six files of the first complete release, training batches first."""
    releases = (("cifar-10-batches-bin", ".bin"), ("cifar-10-batches-py", ""))
    places = [] if root is None else [(root / sub, suffix) for folder, suffix in releases for sub in (folder, "")]
    gaps = []
    for folder, suffix in places:
        files = [folder / f"{batch}{suffix}" for batch in _BATCHES]
        missing = [file.name for file in files if not file.is_file()]
        if not missing:
            return files
        if len(missing) < len(files):
            gaps.append(f"{folder} lacks {', '.join(missing)}")
    if gaps:
        looked = "Incomplete: " + "; ".join(gaps) + "."
    elif places:
        looked = "Looked in " + ", ".join(dict.fromkeys(str(folder) for folder, _ in places)) + "."
    else:
        looked = "No root was given, and nothing is downloaded."
    raise DataError(
        f"'{name}' needs data_batch_1.bin to data_batch_5.bin and test_batch.bin, or the same six without .bin",
        looked,
        "Unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz, the official archives, and give root the folder.",
    )


def _read(path: Path) -> Samples:
    planes, labels = _read_binary(path) if path.suffix == ".bin" else _read_pickle(path)
    if labels.min() < 0 or labels.max() > 9:
        position = int(((labels < 0) | (labels > 9)).argmax())
        raise _wrong(path, "labels from 0 to 9", f"{labels[position]} in record {position}")
    # Stored plane by plane, red, green, blue; a step of the sequence is one pixel with its channels.
    return Samples(planes.reshape(-1, 3, _PIXELS).transpose(0, 2, 1), labels)


def _read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    content = np.fromfile(path, dtype=np.uint8)
    if content.size == 0 or content.size % _RECORD_BYTES:
        raise _wrong(path, f"whole records of {_RECORD_BYTES} bytes", f"{content.size} bytes")
    records = content.reshape(-1, _RECORD_BYTES)
    return records[:, 1:], records[:, 0]


def _read_pickle(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    record = _unpickled(path)
    if not isinstance(record, dict):
        raise _wrong(path, "a dictionary", type(record).__name__)
    data, labels = (record.get(key.encode(), record.get(key)) for key in ("data", "labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * _PIXELS,) or not len(data):
        found = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise _wrong(path, f"'data' of uint8, n x {3 * _PIXELS}", found)
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        found = f"{len(labels)} entries" if isinstance(labels, list) else type(labels).__name__
        raise _wrong(path, f"'labels', a list of {len(data)} integers", found)
    return data, np.array(labels)


class _BatchUnpickler(pickle.Unpickler):
    """Unpickles byte arrays, numbers and strings, nothing else.

    A pickle may name any function and call it, so the four names that batches need are answered here by stand-ins.
    numpy's own would already be too much: `numpy.dtype` with a forged state makes arrays of raw pointers.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return lambda *_: np.empty(0, np.uint8)
            case ("numpy", "ndarray"):
                return "the first argument of _reconstruct"
            case ("numpy", "dtype"):
                return _uint8_dtype
            case ("_codecs", "encode"):
                return _latin1_bytes
        raise pickle.UnpicklingError(f"the global {module}.{name}, which no batch needs and which is not loaded")


def _uint8_dtype(code: str | bytes, *_: Any) -> np.dtype[np.uint8]:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"an array of {code!r}")
    return np.dtype(np.uint8)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"a string in {encoding!r}")
    return text.encode("latin1")


def _unpickled(path: Path) -> Any:
    with path.open("rb") as stream:
        try:
            # The published batches were pickled by Python 2, whose strings are bytes.
            return _BatchUnpickler(stream, encoding="bytes").load()
        except _BROKEN_PICKLE as error:
            raise _wrong(path, "a pickle of one byte array, its labels and strings", str(error)) from error


def _gray(colour: Samples) -> Samples:
    weighted = colour.values.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
    return Samples(((weighted + 500) // 1000).astype(np.uint8)[:, :, None], colour.labels)


def _wrong(path: Path, expected: str, found: str) -> DataError:
    return DataError(
        f"{path} is not a CIFAR-10 batch: expected {expected}, found {found}",
        cure="The file may be truncated or renamed; unpack the archive again.",
    )
