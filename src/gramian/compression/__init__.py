"""Which ranks, when, and how a cut is carried out: knows the `Reducible` protocol and no concrete layer."""

from gramian.compression.compressor import Compressor
from gramian.compression.cuts import compress_
from gramian.compression.policies import Budget, Energy, ErrorBound, Policy, Rank, Shrink
from gramian.compression.records import Event, LayerChange
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At, Every, Never, Schedule, WhenStable

__all__ = [
    "At",
    "Budget",
    "Compressor",
    "Energy",
    "ErrorBound",
    "Event",
    "Every",
    "LayerChange",
    "Never",
    "Policy",
    "Rank",
    "RollBack",
    "Schedule",
    "Shrink",
    "WhenStable",
    "compress_",
]
