"""What a table is asked for: rounds, size of the job, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

__all__ = ["MAIN", "SMALL", "THREADS", "CannotRun", "Settings", "Shape", "threads"]

THREADS = 2
SMALL = 25
"""States after the cuts of the main job, about."""


class CannotRun(Exception):
    """A contestant that is not here, or does not run on this machine; the message is shown in its row."""


@dataclass(frozen=True)
class Shape:
    """A model and a batch: the axes that a time can depend on."""

    batch: int
    length: int
    channels: int
    states: int
    blocks: int = 1

    def __str__(self) -> str:
        blocks = f", {self.blocks} blocks" if self.blocks > 1 else ""
        return f"batch {self.batch}, L {self.length}, H {self.channels}, N {self.states}{blocks}"

    @property
    def tokens(self) -> int:
        """Steps of all sequences."""
        return self.batch * self.length


MAIN = Shape(50, 784, 8, 256)
"""The main job: sequential MNIST."""


@dataclass(frozen=True)
class Settings:
    """Rounds of every comparison; with `small`, shapes that show no more than that a table can be made.

    `states` are the sizes that a profile is taken at.
    """

    rounds: int = 7
    small: bool = False
    states: tuple[int, ...] = ()

    def fit(self, shape: Shape) -> Shape:
        """`shape`, or a tiny one in its place."""
        if not self.small:
            return shape
        return replace(
            shape,
            batch=min(shape.batch, 3),
            length=min(shape.length, 40),
            channels=min(shape.channels, 4),
            states=12 if shape.states > SMALL else min(shape.states, 5),
        )

    @property
    def least(self) -> float:
        """Seconds that a turn lasts at least."""
        return 0.0 if self.small else 0.05


@contextmanager
def threads() -> Iterator[None]:
    """Compute with `THREADS` threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
