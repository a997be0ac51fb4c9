"""Sequence data that needs no network: bundled, generated, or read from the user's files."""

from gramian.lab.data.batches import Batches, Stream, training_batches
from gramian.lab.data.check import DataReport, SplitReport, check_data
from gramian.lab.data.parameters import Parameters
from gramian.lab.data.registry import DATASETS, DatasetInfo, load_data
from gramian.lab.data.sequences import NOT_ASKED, SequenceData, Split

__all__ = [
    "DATASETS",
    "NOT_ASKED",
    "Batches",
    "DataReport",
    "DatasetInfo",
    "Parameters",
    "SequenceData",
    "Split",
    "SplitReport",
    "Stream",
    "check_data",
    "load_data",
    "training_batches",
]
