"""CIFAR-10 from files in exactly the formats of the two releases."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gramian.errors import DataError
from gramian.lab.data import DATASETS, SequenceData, load_data
from gramian.lab.data.cifar import load_cifar10

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
Batch = tuple[np.ndarray, list[int]]


def python2_pickle(planes: np.ndarray, labels: list[int]) -> bytes:
    """The bytes Python 2 and numpy 1 wrote: protocol 2, byte strings, ``numpy.core.multiarray``."""

    def string(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text

    def integer(number: int) -> bytes:
        return b"J" + struct.pack("<i", number)

    dtype = b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"\x87R"
    shape = integer(planes.shape[0]) + integer(planes.shape[1]) + b"\x86"
    array += b"(" + integer(1) + shape + dtype + b"\x89" + string(planes.tobytes()) + b"tb"
    label_list = b"](" + b"".join(integer(label) for label in labels) + b"e"
    names = b"](" + b"".join(string(b"image_%d.png" % i) for i in range(len(labels))) + b"e"
    entries = string(b"batch_label") + string(b"training batch 1 of 5") + string(b"labels") + label_list
    return b"\x80\x02}(" + entries + string(b"data") + array + string(b"filenames") + names + b"u."


def python3_pickle(planes: np.ndarray, labels: list[int]) -> bytes:
    return pickle.dumps({b"data": planes, b"labels": labels}, protocol=2)


def binary(planes: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, planes, strict=True))


@pytest.fixture(scope="module")
def batches() -> dict[str, Batch]:
    """Ten records a batch, one of each class; the first pixel of a record spells out which record it is."""
    rng = np.random.default_rng(0)
    made = {}
    for number, name in enumerate(BATCHES):
        planes = rng.integers(0, 256, (10, 3072), dtype=np.uint8)
        planes[:, 0] = 10 * number + np.arange(10)
        planes[:, 1024:1028] = planes[:, 2048:2052] = (0, 255, 0, 255)
        planes[:, 1:3] = (0, 255)
        made[name] = (planes, rng.permutation(10).tolist())
    return made


def write(folder: Path, batches: dict[str, Batch], pack: Callable[..., bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, batch in batches.items():
        (folder / (name + (".bin" if pack is binary else ""))).write_bytes(pack(*batch))
    return folder


def recovered_bytes(data: SequenceData) -> dict[str, np.ndarray]:
    """The pixels before standardisation; every channel of the training data spans 0..255."""
    low, high = data.train.inputs.amin(dim=(0, 1)), data.train.inputs.amax(dim=(0, 1))
    return {
        label: ((split.inputs - low) / (high - low) * 255).round().to(torch.uint8).numpy()
        for label, split in data.splits.items()
    }


@pytest.mark.parametrize(
    ("folder", "pack"),
    [
        ("", binary),
        ("cifar-10-batches-bin", binary),
        ("", python2_pickle),
        ("cifar-10-batches-py", python2_pickle),
        ("cifar-10-batches-py", python3_pickle),
    ],
)
def test_both_releases_arrive_pixel_by_pixel_with_their_labels(
    tmp_path: Path, batches: dict[str, Batch], folder: str, pack: Callable[..., bytes]
) -> None:
    write(tmp_path / folder, batches, pack)
    data = load_cifar10(tmp_path)
    assert [len(split) for split in data.splits.values()] == [45, 5, 10]
    assert (data.length, data.d_input, data.n_classes) == (1024, 3, 10)
    images = recovered_bytes(data)
    planes, labels = batches["test_batch"]
    assert np.array_equal(images["test"], planes.reshape(10, 3, 1024).transpose(0, 2, 1))
    assert data.test.targets.tolist() == labels
    seen = set()
    for label in ("train", "valid"):
        for image, target in zip(images[label], data.splits[label].targets.tolist(), strict=True):
            batch, record = divmod(int(image[0, 0]), 10)
            planes, labels = batches[BATCHES[batch]]
            assert np.array_equal(image, planes[record].reshape(3, 1024).T)
            assert target == labels[record]
            seen.add((batch, record))
    assert seen == {(batch, record) for batch in range(5) for record in range(10)}


def test_a_tenth_of_every_class_is_held_out_and_depends_on_the_seed(tmp_path: Path, batches: dict[str, Batch]) -> None:
    twice = {name: (np.concatenate([planes, 255 - planes]), labels * 2) for name, (planes, labels) in batches.items()}
    write(tmp_path, twice, binary)
    first, again, other = (load_cifar10(tmp_path, seed) for seed in (0, 0, 1))
    assert first.valid.targets.bincount(minlength=10).tolist() == [1] * 10
    assert first.source == again.source
    assert not torch.equal(first.valid.inputs, other.valid.inputs)
    assert first.test.targets.tolist() == other.test.targets.tolist()


def test_grey_is_the_rounded_luma_of_the_three_channels(tmp_path: Path, batches: dict[str, Batch]) -> None:
    extremes = {name: (planes.copy(), labels) for name, (planes, labels) in batches.items()}
    for planes, _ in extremes.values():
        planes.reshape(10, 3, 1024)[:, :, 5:7] = (0, 255)
    write(tmp_path, extremes, binary)
    data = load_data("cifar10-gray", tmp_path)
    assert (data.name, data.d_input, data.length) == ("cifar10-gray", 1, 1024)
    assert load_data("cifar10", tmp_path).d_input == DATASETS["cifar10"].d_input == 3
    colour = extremes["test_batch"][0].reshape(10, 3, 1024)
    luma = np.tensordot([0.299, 0.587, 0.114], colour, axes=(0, 1))
    assert np.abs(recovered_bytes(data)["test"][:, :, 0] - luma).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("pack", "suffix"), [(binary, ".bin"), (python2_pickle, "")])
def test_missing_files_are_named_with_the_folder_that_lacks_them(
    tmp_path: Path, batches: dict[str, Batch], pack: Callable[..., bytes], suffix: str
) -> None:
    write(tmp_path, batches, pack)
    (tmp_path / f"data_batch_3{suffix}").unlink()
    (tmp_path / f"test_batch{suffix}").unlink()
    with pytest.raises(DataError) as caught:
        load_cifar10(tmp_path)
    assert f"{tmp_path} lacks data_batch_3{suffix}, test_batch{suffix}." in caught.value.why


def test_without_any_file_the_error_says_what_is_needed_and_where_it_was_looked_for(tmp_path: Path) -> None:
    for root, looked in ((tmp_path, str(tmp_path / "cifar-10-batches-py")), (None, "No root was given")):
        with pytest.raises(DataError, match=r"data_batch_1\.bin to data_batch_5\.bin and test_batch\.bin") as caught:
            load_cifar10(root)
        assert looked in caught.value.why
        assert "cifar-10-binary.tar.gz or cifar-10-python.tar.gz" in caught.value.cure
        assert "http" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"\0", lambda content: b""])
def test_a_truncated_binary_batch_is_named(
    tmp_path: Path, batches: dict[str, Batch], damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path, batches, binary) / "data_batch_4.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        DataError, match=rf"data_batch_4\.bin.*records of 3073 bytes, found {path.stat().st_size} bytes"
    ):
        load_cifar10(tmp_path)


def test_a_label_beyond_nine_is_named_with_its_record(tmp_path: Path, batches: dict[str, Batch]) -> None:
    planes, labels = batches["data_batch_2"]
    spoilt = batches | {"data_batch_2": (planes, [*labels[:7], 12, *labels[8:]])}
    for pack in (binary, python2_pickle):
        write(tmp_path, spoilt, pack)
        with pytest.raises(DataError, match=r"data_batch_2.*found 12 in record 7"):
            load_cifar10(tmp_path)
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("kept", [0, 1, 30, 5000, -1])
def test_a_truncated_pickle_is_named(tmp_path: Path, batches: dict[str, Batch], kept: int) -> None:
    path = write(tmp_path, batches, python2_pickle) / "test_batch"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"test_batch is not a CIFAR-10 batch"):
        load_cifar10(tmp_path)


IMAGES = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    "record",
    [
        [1, 2],
        {b"labels": [1, 2]},
        {b"data": IMAGES},
        {b"data": IMAGES, b"labels": [1]},
        {b"data": IMAGES, b"labels": [1, 2.5]},
        {b"data": IMAGES, b"labels": "12"},
        {b"data": IMAGES[:, 1:], b"labels": [1, 2]},
        {b"data": IMAGES[:0], b"labels": []},
        {b"data": IMAGES.ravel(), b"labels": [1] * 6144},
        {b"data": IMAGES.astype(np.int8), b"labels": [1, 2]},
        {b"data": IMAGES.astype(np.int64), b"labels": [1, 2]},
    ],
)
def test_a_pickle_of_anything_but_a_batch_is_named(tmp_path: Path, batches: dict[str, Batch], record: Any) -> None:
    path = write(tmp_path, batches, python3_pickle) / "data_batch_5"
    path.write_bytes(pickle.dumps(record, protocol=2))
    with pytest.raises(DataError, match=r"data_batch_5 is not a CIFAR-10 batch"):
        load_cifar10(tmp_path)


class RunsACommand:
    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.evidence),)


def test_a_pickle_that_calls_a_function_is_refused_before_it_does(tmp_path: Path, batches: dict[str, Batch]) -> None:
    evidence = tmp_path / "evidence"
    path = write(tmp_path, batches, python3_pickle) / "data_batch_1"
    planes, labels = batches["data_batch_1"]
    path.write_bytes(pickle.dumps({b"data": planes, b"labels": labels, b"x": RunsACommand(evidence)}, protocol=2))
    with pytest.raises(DataError, match=rf"data_batch_1.*global {os.mkdir.__module__}\.mkdir.*not loaded"):
        load_cifar10(tmp_path)
    assert not evidence.exists()


@pytest.mark.parametrize(
    "forged",
    [
        b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.",
        b"c__builtin__\neval\n(X\x03\x00\x00\x001+1tR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x0a\x00\x00\x00zlib_codectR.",
        b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",
        b"cnumpy\nndarray\n(K\x01U\x01OU\x08\x01\x02\x03\x04\x05\x06\x07\x08tR.",
    ],
    ids=[
        "eval",
        "python 2 eval",
        "numpy.load",
        "numpy scalar",
        "another codec",
        "object dtype",
        "pointers as an array",
    ],
)
def test_a_forged_pickle_is_refused(tmp_path: Path, batches: dict[str, Batch], forged: bytes) -> None:
    path = write(tmp_path, batches, python3_pickle) / "data_batch_1"
    path.write_bytes(b"\x80\x02" + forged)
    with pytest.raises(DataError, match=r"data_batch_1 is not a CIFAR-10 batch: expected a pickle of one byte array"):
        load_cifar10(tmp_path)


def test_a_forged_dtype_state_changes_nothing(tmp_path: Path, batches: dict[str, Batch]) -> None:
    path = write(tmp_path, batches, python2_pickle) / "data_batch_1"
    minus_one = struct.pack("<i", -1)
    honest = b"NNNJ" + minus_one + b"J" + minus_one + b"J" + struct.pack("<i", 0)
    forged = b"NNNJ" + struct.pack("<i", 8) + b"J" + struct.pack("<i", 8) + b"J" + struct.pack("<i", 63)
    content = path.read_bytes()
    assert content.count(honest) == 1
    path.write_bytes(content.replace(honest, forged))
    load_cifar10(tmp_path)
    assert (np.dtype(np.uint8).itemsize, np.dtype(np.uint8).flags) == (1, 0)
