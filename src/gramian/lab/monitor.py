"""Spectra and their drift while a model trains: what the run folder keeps of every look, and how often it looks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from gramian.compression.policies import Policy
from gramian.lab.files import write_tensors
from gramian.layers.reducible import Spectrum
from gramian.systems.drift import hsv_movement, subspace_overlap

__all__ = ["Looks", "SpectrumLog", "drift"]


class SpectrumLog:
    """``spectra.safetensors``: one row of values for every layer and step, under ``layer/step``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors: dict[str, Tensor] = load_file(path) if path.exists() else {}

    def add(self, step: int, spectra: Mapping[str, Spectrum]) -> None:
        """Add the spectra of all layers at `step`, and write the file anew."""
        self._tensors |= {f"{layer}/{step:08d}": spectrum.values for layer, spectrum in spectra.items()}
        write_tensors(self.path, self._tensors)

    @property
    def keys(self) -> list[str]:
        """What has been written, as ``layer/step``."""
        return list(self._tensors)

    def keep(self, keys: Collection[str]) -> None:
        """Drop all but `keys`: a resumed run writes the others again."""
        kept = {key: value for key, value in self._tensors.items() if key in keys}
        if len(kept) < len(self._tensors):
            self._tensors = kept
            write_tensors(self.path, kept)


class Looks:
    """When to look at spectra between cuts, so that looking takes no more than a `share` of the training time.

    A look that costs more than its share of the training until the next one makes looks rarer, ``every``, ``2 every``,
    ``4 every``, ... steps apart; once they are cheaper, as after a cut, they become more frequent again. Only
    journals depend on it, never the training.

    Parameters
    ----------
    every
        Steps between looks at best; None for none between cuts.
    share
        The fraction of the training time; None for no limit, which makes the journals of two equal runs equal.
    """

    def __init__(self, every: int | None, share: float | None) -> None:
        self.every, self.share = every, share
        self.interval = every or 0
        self.seconds = 0.0  # spent on looks so far

    def affordable(self, training_seconds: float) -> bool:
        """Whether the looks so far have taken less than their share."""
        return self.share is None or self.seconds <= self.share * training_seconds

    def due(self, step: int, training_seconds: float) -> bool:
        """Whether to look at `step`, although nothing was cut."""
        return bool(self.interval) and step % self.interval == 0 and self.affordable(training_seconds)

    def account(self, seconds: float, step: int, training_seconds: float, compared: bool = True) -> str:
        """Note that a look at `step` took `seconds`; what changes because of it, in words, or nothing.

        A look that found nothing to be `compared` with says little about what the next one will cost.
        """
        self.seconds += seconds
        if not compared or self.every is None or self.share is None or not training_seconds:
            return ""
        needed = seconds / (self.share * training_seconds / step)  # steps that pay for a look
        before, self.interval = self.interval, _interval(self.every, needed)
        if self.interval < before:  # only with room to spare: clocks are noisy
            self.interval = min(before, _interval(self.every, 2 * needed))
        if self.interval == before:
            return ""
        return (
            f"a look at the spectra took {seconds:.2g} s: looking every {self.interval} steps from now on instead of "
            f"every {before}, to keep it below {self.share:g} of the training time (compress.analyze_share)"
        )

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"interval": self.interval, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on as when `state_dict` was called."""
        self.interval, self.seconds = int(state["interval"]), state["seconds"]


def _interval(every: int, needed: float) -> int:
    """The first of ``every``, ``2 every``, ``4 every``, ... that is long enough."""
    return every * 2 ** math.ceil(math.log2(max(needed / every, 1)))


def drift(before: Mapping[str, Spectrum], after: Mapping[str, Spectrum], policy: Policy) -> dict[str, float]:
    """How far every layer's spectrum and dominant subspaces moved between two looks without a cut between them.

    Keys ``drift/past``, ``drift/future`` (subspace overlap at the rank the policy would keep), ``drift/moved``,
    ``drift/bound`` (movement of the Hankel singular values and what the difference system allows, both relative to
    their sum) and ``drift/rank`` (states the policy would keep), each followed by ``/layer``.
    """
    row: dict[str, float] = {}
    ranks = policy(after)
    for layer, now in after.items():
        was = before[layer]
        row[f"drift/rank/{layer}"] = ranks[layer]
        if was.system is None or now.system is None or not now.values.any():  # no map, or a dead layer
            continue
        order = min(len(now.values), ranks[layer] * (len(now.values) // now.d_state))
        overlap = subspace_overlap(was.balancing or was.system, now.balancing or now.system, order)
        movement = hsv_movement(was.system, now.system, known=(was.values, now.values))
        total = float(now.values.sum())
        row[f"drift/past/{layer}"], row[f"drift/future/{layer}"] = overlap.past, overlap.future
        row[f"drift/moved/{layer}"], row[f"drift/bound/{layer}"] = movement.total / total, movement.nuclear / total
    return row
