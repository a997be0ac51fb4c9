"""Under torch.compile: the same values and gradients, in one graph, and no new compilation after a cut."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from gramian.kernels import BACKENDS
from gramian.lab.models import SequenceModel
from gramian.layers.lru import LRU

SHAPE = (3, 40, 4)


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def layer(backend: str = "auto", d_state: int = 9) -> LRU:
    torch.manual_seed(0)
    return LRU(4, d_state, backend=backend)


def results(module: nn.Module, owner: nn.Module, u: Tensor) -> list[Tensor]:
    y = module(u)
    return [y, *torch.autograd.grad(y.square().sum(), [u, *owner.parameters()])]


@pytest.mark.parametrize("backend", ["auto", *BACKENDS[:-1]])
def test_a_layer_is_the_same_in_one_graph(backend: str) -> None:
    torch.compiler.reset()
    lru, u = layer(backend), inputs()
    compiled = torch.compile(lru, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(results(compiled, lru, u), results(lru, lru, u), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_whole_model_is_the_same_in_one_graph() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = SequenceModel(4, 3, d_model=4, d_state=[9, 5], dropout=0.2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    values = []
    for module in (model, compiled):
        torch.manual_seed(1)  # the same numbers are dropped
        values.append(results(module, model, inputs()))
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's default compiler needs g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_default_compiler_gives_the_same() -> None:
    torch.compiler.reset()
    lru, u = layer(), inputs()
    compiled = torch.compile(lru)
    for ours, theirs in zip(results(compiled, lru, u), results(lru, lru, u), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_cut_makes_no_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import compiler

    lru, u = layer(), inputs()
    results(lru, lru, u)
    lru.spectrum()  # as training does before its first step
    monkeypatch.setattr(compiler, "compile_extra", lambda *args, **kwargs: pytest.fail("numba compiles"))
    for rank in (7, 4, 1):
        lru.apply_(lru.propose(rank))
        results(lru, lru, u)


def test_training_does_not_load_the_compiler() -> None:
    """It takes a second and 150 MB, and is wanted only by those who compile."""
    script = "import sys, torch; from gramian import LRU; LRU(2, 3)(torch.ones(1, 9, 2)).sum().backward()"
    check = f"{script}; print('torch._dynamo' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
