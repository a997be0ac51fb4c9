"""A profile: operators find their group, kernels are told from the rest, and the plain model is the same model."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gramian.lab.bench import ours, plain
from gramian.lab.bench.profiled_operators import OTHER, Op, group_of, is_kernel
from gramian.lab.bench.profiles import split_by_group
from gramian.lab.bench.settings import Shape
from gramian.lab.build import build_optimizer


@pytest.mark.parametrize(
    ("op", "group"),
    [
        (Op("aten::bernoulli_", ("range: dropout", "range: step"), 1), "dropout"),
        (Op("aten::native_dropout_backward", ("autograd::engine::evaluate_function",), 1), "dropout"),
        (Op("aten::native_batch_norm", ("aten::batch_norm", "range: norm"), 1), "batch norm"),
        (Op("aten::add_", ("Optimizer.step#AdamW.step", "range: optimizer", "range: step"), 1), "optimizer"),
        (Op("aten::index", ("range: data", "range: step"), 1), "data loading"),
        (Op("aten::gelu_backward", (), 1), "GELU"),
        (Op("aten::glu", ("range: step",), 1), "GLU"),
        (Op("aten::mm", ("MmBackward0", "range: glu"), 1), "GLU"),
        (Op("aten::addmm", ("aten::linear", "range: glu_linear", "range: step"), 1), "GLU"),
        (Op("aten::mm", ("MmBackward0", "range: lru"), 1), "recurrence"),
        (Op("gramian::glu_dropout_add", ("range: step",), 1), "GLU"),
        (Op("gramian::linear_backward", (), 1), "GLU"),
        (Op("gramian::gelu_dropout", (), 1), "GELU"),
        (Op("gramian::normalize_rows_backward", (), 1), "batch norm"),
        (Op("gramian::scan", (), 1), "recurrence"),
        (Op("gramian::glu_dropout_add", ("range: evaluation",), 1), "evaluation"),
        (Op("aten::mm", ("range: step",), 1), "matrix products of no known module"),
        (Op("range: step", (), 1), "Python and the profiler, outside of operators"),
        (Op("aten::zeros", ("range: step",), 1), OTHER),
    ],
)
def test_group_is_that_of_the_operator_or_of_what_it_runs_in(op: Op, group: str) -> None:
    assert group_of(op) == group


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("gramian::linear_backward", True),
        ("GeneratedBackwardFor_gramian_scan_default", True),
        ("aten::mm", True),
        ("aten::addmm", True),
        ("aten::_fft_r2c", True),
        ("aten::copy_", False),
        ("aten::native_batch_norm", False),
        ("aten::matmul", False),  # what it calls is a product; itself it only arranges
        ("range: lru", False),
    ],
)
def test_kernels_and_products_are_told_from_the_rest(name: str, kernel: bool) -> None:
    assert is_kernel(Op(name, (), 1)) == kernel


def test_seconds_of_a_group_are_split_into_kernels_and_the_rest() -> None:
    ops = [Op("gramian::scan", (), 3), Op("aten::copy_", ("range: lru",), 1), Op("aten::mm", ("range: lru",), 2)]
    assert split_by_group([*ops, Op("aten::zeros", (), 5)]) == {"recurrence": (5, 1), OTHER: (0, 5)}


def test_the_plain_model_is_the_same_function_with_the_same_gradients() -> None:
    shape = Shape(3, 40, 4, 12)
    inputs, targets = ours.batch(shape)
    found = []
    for build in (ours.model, plain.model):
        network = build(shape, dropout=0.0).double()
        logits = network(inputs.double())  # in training mode: batch statistics
        parameters = [network.encoder.weight, network.blocks[0].lru.nu_log, network.blocks[0].lru.B_re]
        gradients = torch.autograd.grad(F.cross_entropy(logits, targets), parameters)
        found.append([logits, *gradients, network.eval()(inputs.double())])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_plain_optimizer_has_the_same_groups_and_rates() -> None:
    network = plain.model(Shape(3, 40, 4, 12))
    mine, other = build_optimizer(ours.SETTINGS, network), plain.optimizer(network)
    for a, b in zip(mine.param_groups, other.param_groups, strict=True):
        assert (a["lr"], a["weight_decay"], a["betas"]) == (b["lr"], b["weight_decay"], b["betas"])
        assert [id(p) for p in a["params"]] == [id(p) for p in b["params"]]
