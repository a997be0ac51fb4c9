"""In-training compression of state space models: start large, cut what does not matter, go on at the small size."""

from gramian.compression.compressor import Compressor
from gramian.compression.cuts import compress_
from gramian.compression.policies import Budget, Energy, ErrorBound, Rank, Shrink
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At, Every, Never, WhenStable
from gramian.layers.lru import LRU
from gramian.layers.reducible import Reducible, reducible_layers, resize_like_
from gramian.systems.hankel import error_bound, hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import h2_norm, hinf_norm
from gramian.systems.projections import balanced
from gramian.version import __version__

__all__ = [
    "LRU",
    "At",
    "Budget",
    "Compressor",
    "Energy",
    "ErrorBound",
    "Every",
    "LinearSystem",
    "Never",
    "Rank",
    "Reducible",
    "RollBack",
    "Shrink",
    "WhenStable",
    "__version__",
    "balanced",
    "compress_",
    "error_bound",
    "h2_norm",
    "hankel_singular_values",
    "hinf_norm",
    "reducible_layers",
    "resize_like_",
]
