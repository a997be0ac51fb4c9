"""Load a data set and look at it before a run does: ``gramian data check NAME --root DIR``."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import torch

from gramian.lab.data.registry import DATASETS, load_data
from gramian.lab.data.sequences import Split

__all__ = ["DataReport", "SplitReport", "check_data"]


@dataclass(frozen=True)
class SplitReport:
    """One split in numbers.

    Parameters
    ----------
    name
        train, valid or test.
    samples
        How many.
    class_counts
        How many targets of each class, from class 0 on.
    stepwise
        Whether there is a target for every step that is asked for, and not one for every sequence.
    non_finite
        Input entries that are NaN or infinite.
    repeated
        Samples whose inputs equal those of an earlier sample of the same split, byte for byte.
    also_in_train
        Samples whose inputs also occur in the training set; 0 for the training set itself.
    """

    name: str
    samples: int
    class_counts: tuple[int, ...]
    stepwise: bool
    non_finite: int
    repeated: int
    also_in_train: int


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found; prints as a table.

    Parameters
    ----------
    name
        The data set.
    source
        `SequenceData.source`: origin and sha256.
    length, d_input, n_classes
        As loaded.
    entries
        What `d_input` counts: channels, or different tokens.
    splits
        The splits, in the order train, valid, test.
    findings
        What is wrong, one sentence each. Duplicates are not among them: published data has some, and `splits`
        counts them.
    """

    name: str
    source: str
    length: int
    d_input: int
    n_classes: int
    entries: str
    splits: tuple[SplitReport, ...]
    findings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        table: list[tuple[str, ...]] = [("split", "samples", "per class", "not finite", "repeated", "also in train")]
        for split in self.splits:
            counts = split.class_counts
            per_class = f"{sum(counts)} steps" if split.stepwise else f"{min(counts)}..{max(counts)}"
            numbers = (split.samples, per_class, split.non_finite, split.repeated, split.also_in_train)
            table.append((split.name, *map(str, numbers)))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        title = f"{self.name}: length {self.length}, {self.d_input} {self.entries}, {self.n_classes} classes"
        rows = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
        verdict = self.findings or ("nothing wrong found",)
        return "\n".join((title, self.source, *rows, *verdict))


def check_data(name: str, root: str | os.PathLike[str] | None = None, seed: int = 0) -> DataReport:
    """Load the data set and verify its shape, classes and entries; count the samples that training has seen.

    Raises
    ------
    ConfigError, DataError
        As `load_data`, if it cannot be loaded at all.
    """
    data, promised = load_data(name, root, seed), DATASETS[name]
    seen_in_training = set(_sample_digests(data.train))
    splits = tuple(
        _split_report(label, split, data.n_classes, set() if split is data.train else seen_in_training)
        for label, split in data.splits.items()
    )
    shape = (data.length, data.d_input, data.n_classes)
    expected = (promised.length, promised.d_input, promised.n_classes)
    findings = [f"(length, d_input, n_classes) is {shape}, not {expected}"] if shape != expected else []
    findings += [finding for split in splits for finding in _findings(split)]
    entries = "tokens" if data.train.tokens else "channel(s)"
    return DataReport(data.name, data.source, *shape, entries, splits, tuple(findings))


def _split_report(name: str, split: Split, n_classes: int, seen: set[bytes]) -> SplitReport:
    digests = _sample_digests(split)
    return SplitReport(
        name,
        samples=len(split),
        class_counts=tuple(torch.bincount(split.asked, minlength=n_classes).tolist()),
        stepwise=split.stepwise,
        non_finite=int((~split.inputs.isfinite()).sum()),
        repeated=len(digests) - len(set(digests)),
        also_in_train=sum(digest in seen for digest in digests),
    )


def _findings(split: SplitReport) -> list[str]:
    found = []
    if split.non_finite:
        found.append(f"{split.name}: {split.non_finite} input entries are NaN or infinite")
    absent = [str(label) for label, count in enumerate(split.class_counts) if count == 0]
    if absent and not split.stepwise:  # of many tokens, some are never an answer
        found.append(f"{split.name}: no sample of class {', '.join(absent)}")
    return found


def _sample_digests(split: Split) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(sample).data).digest() for sample in split.inputs.numpy(force=True)]
