"""State space layers, and the protocol by which any layer can be made smaller."""

from gramian.layers.lru import LRU
from gramian.layers.reducible import Reducible, Spectrum, reducible_layers, resize_like_
from gramian.layers.reduction import MomentMap, Reduction

__all__ = ["LRU", "MomentMap", "Reducible", "Reduction", "Spectrum", "reducible_layers", "resize_like_"]
