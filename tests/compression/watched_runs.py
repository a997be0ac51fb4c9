"""Training runs whose cuts are watched, for the tests of roll-backs."""

from __future__ import annotations

from typing import Any

from small_models import everything, make_net, train_step
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Policy, Shrink
from gramian.compression.records import Event
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At, Schedule


class Run:
    """A training run with a scheduler, of which metrics are made up."""

    def __init__(
        self,
        policy: Policy = Shrink(0.5),  # noqa: B008 - a frozen value
        schedule: Schedule = At([3]),  # noqa: B008 - never changed
        make: Any = lambda p: AdamW(p, 1e-3, amsgrad=True),
        seed: int = 0,
        **rollback: Any,
    ) -> None:
        self.model = make_net(seed=seed)
        self.optimizer: Optimizer = make(self.model.parameters())
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=20)
        self.compressor = Compressor(
            self.model,
            self.optimizer,
            policy=policy,
            schedule=schedule,
            rollback=RollBack(**{"drop": 0.02, "also": (self.scheduler,), **rollback}),
        )

    def train(self) -> None:
        train_step(self.model, self.optimizer)
        self.scheduler.step()

    def step(self, metric: float | None = None) -> Event:
        self.train()
        return self.compressor.step(metric)

    def everything(self) -> dict[str, Any]:
        return everything(self.model, self.optimizer, self.scheduler)

    def until_cut(self, metric: float = 0.9) -> dict[str, Any]:
        """Train up to the first cut; everything as it was just before it."""
        for _ in range(30):
            self.train()
            before = self.everything()
            if self.compressor.step(metric).kind == "cut":
                return before
        raise AssertionError("nothing was cut")


MAKES = {
    "AdamW": lambda p: AdamW(p, 1e-3, amsgrad=True),
    "fused": lambda p: AdamW(p, 1e-3, fused=True),
    "SGD": lambda p: SGD(p, 1e-3, momentum=0.9),
}
