"""In-training compression of state space models: start large, cut what does not matter, go on at the small size.

The names below are imported when they are first used, so that the command line answers without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gramian.version import __version__

if TYPE_CHECKING:
    from gramian.compression.compressor import Compressor
    from gramian.compression.cuts import compress_
    from gramian.compression.policies import Budget, Energy, ErrorBound, Rank, Shrink
    from gramian.compression.rollback import RollBack
    from gramian.compression.schedules import At, Every, Never, WhenStable
    from gramian.layers.adapters.registry import register_adapter
    from gramian.layers.calibration import Calibration
    from gramian.layers.linear_attention import LinearAttention
    from gramian.layers.lru import LRU
    from gramian.layers.mamba import Mamba
    from gramian.layers.mamba2 import Mamba2
    from gramian.layers.reducible import Reducible, reducible_layers, resize_like_
    from gramian.systems.h2 import h2_norm
    from gramian.systems.hankel import error_bound, hankel_singular_values
    from gramian.systems.linear_system import LinearSystem
    from gramian.systems.norms import hinf_norm
    from gramian.systems.projections import balanced

_HOMES = {
    "compression.compressor": ("Compressor",),
    "compression.cuts": ("compress_",),
    "compression.policies": ("Budget", "Energy", "ErrorBound", "Rank", "Shrink"),
    "compression.rollback": ("RollBack",),
    "compression.schedules": ("At", "Every", "Never", "WhenStable"),
    "layers.adapters.registry": ("register_adapter",),
    "layers.calibration": ("Calibration",),
    "layers.linear_attention": ("LinearAttention",),
    "layers.lru": ("LRU",),
    "layers.mamba": ("Mamba",),
    "layers.mamba2": ("Mamba2",),
    "layers.reducible": ("Reducible", "reducible_layers", "resize_like_"),
    "systems.hankel": ("error_bound", "hankel_singular_values"),
    "systems.linear_system": ("LinearSystem",),
    "systems.h2": ("h2_norm",),
    "systems.norms": ("hinf_norm",),
    "systems.projections": ("balanced",),
}
_HOME_OF = {name: f"gramian.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "LRU",
    "At",
    "Budget",
    "Calibration",
    "Compressor",
    "Energy",
    "ErrorBound",
    "Every",
    "LinearAttention",
    "LinearSystem",
    "Mamba",
    "Mamba2",
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
    "register_adapter",
    "resize_like_",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gramian' has no attribute '{name}'")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
