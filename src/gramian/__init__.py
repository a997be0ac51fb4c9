"""In-training compression of state space models: start large, cut what does not matter, go on at the small size."""

from gramian.version import __version__

__all__ = ["__version__"]
