"""What can go wrong, said so that the reader knows what to type next.

Every exception is built from facts: what was given, why that cannot be used, and the cure. ``str(error)`` prints
them on up to three lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EmptySystemError",
    "GramianError",
    "NonFiniteSystemError",
    "ShapeError",
    "UnstableSystemError",
    "did_you_mean",
]


class GramianError(ValueError):
    """The caller's mistake: what was given, why it cannot be used, and what to do instead.

    Parameters
    ----------
    given
        What was given, and what is needed.
    why
        The reason, on its own line; empty when the first line says it all.
    cure
        What to type instead.
    """

    def __init__(self, given: str, why: str = "", cure: str = "") -> None:
        self.given, self.why, self.cure = given, why, cure
        super().__init__("\n    ".join(part for part in (given, why, cure) if part))


class ShapeError(GramianError):
    """Tensors whose shapes do not fit together, or are not what the callee works on."""


class EmptySystemError(GramianError):
    """A system without states, inputs or outputs."""


class NonFiniteSystemError(GramianError):
    """A system with NaN or infinite entries."""


class UnstableSystemError(GramianError):
    """A system with poles on or outside the unit circle: its Gramians do not exist."""


class ConfigError(GramianError):
    """A configuration with an unknown key or a value that cannot be used."""


class DataError(GramianError):
    """A data set that is missing, incomplete or not in the format its name promises."""


class CheckpointError(GramianError):
    """A run folder, checkpoint or saved model that cannot be read or does not fit."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``' Did you mean \\'tau\\'?'`` for the known word nearest to `word`; an empty string when none is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
