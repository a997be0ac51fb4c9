"""The laboratory's model without a compiled kernel of ours: torch's own modules, the recurrence in torch's operators.

What a profile is compared with. The recurrence is still computed by chunks, as `backend="torch"` does it.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gramian.lab.bench import ours
from gramian.lab.bench.settings import Shape
from gramian.lab.build import build_optimizer
from gramian.lab.models import Block, SequenceModel

__all__ = ["model", "optimizer"]


class PlainBlock(nn.Module):
    """`gramian.lab.models.Block` of torch's modules: the same function in eval mode, other random numbers in training.

    Parameters are copies of the block's.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm = copy.deepcopy(block.norm.norm)
        self.lru = copy.deepcopy(block.lru)
        self.lru.backend = "torch"
        self.gelu = nn.GELU()
        self.glu_linear = copy.deepcopy(block.glu)
        self.glu = nn.GLU()
        self.dropout = nn.Dropout(block.dropout)
        self.skip_dropout = nn.Dropout(block.dropout)

    def forward(self, x: Tensor, mask: None = None) -> Tensor:
        y = self.norm(x.flatten(0, 1)).view_as(x)
        y = self.dropout(self.gelu(self.lru(y)))
        return x + self.skip_dropout(self.glu(self.glu_linear(y)))


def model(shape: Shape, dropout: float = 0.1) -> SequenceModel:
    """`ours.model` of the same parameters, with plain blocks."""
    network = ours.model(shape, dropout)
    blocks = [block for block in network.blocks if isinstance(block, Block)]
    assert len(blocks) == len(network.blocks)
    network.blocks = nn.ModuleList(map(PlainBlock, blocks))
    return network


def optimizer(network: nn.Module) -> Optimizer:
    """AdamW as torch gives it if nothing is said, with our groups and rates."""
    groups = [
        {key: group[key] for key in ("params", "lr", "weight_decay")}
        for group in build_optimizer(ours.SETTINGS, network).param_groups
    ]
    return AdamW(groups, betas=ours.SETTINGS.betas)
