"""Sequence classification data that needs no network: bundled, generated, or read from the user's files."""

from gramian.lab.data.check import DataReport, SplitReport, check_data
from gramian.lab.data.registry import DATASETS, DatasetInfo, load_data
from gramian.lab.data.sequences import Batches, SequenceData, Split

__all__ = [
    "DATASETS",
    "Batches",
    "DataReport",
    "DatasetInfo",
    "SequenceData",
    "Split",
    "SplitReport",
    "check_data",
    "load_data",
]
