"""Operators find their group by what they are and by what is around them."""

from __future__ import annotations

import pytest

from gramian.lab.bench.profiles import OTHER, Op, group_of


@pytest.mark.parametrize(
    ("op", "group"),
    [
        (Op("aten::bernoulli_", ("range: dropout", "range: step"), 1), "dropout"),
        (Op("aten::native_dropout_backward", ("autograd::engine::evaluate_function",), 1), "dropout"),
        (Op("aten::native_batch_norm", ("aten::batch_norm", "range: norm"), 1), "batch norm"),
        (Op("aten::add_", ("Optimizer.step#AdamW.step", "range: optimizer", "range: step"), 1), "optimizer"),
        (Op("aten::index", ("range: data", "range: step"), 1), "data loading"),
        (Op("aten::gelu_backward", (), 1), "GELU with dropout"),
        (Op("aten::glu", ("range: step",), 1), "GLU with dropout and skip"),
        (Op("aten::mm", ("MmBackward0", "range: glu"), 1), "GLU with dropout and skip"),
        (Op("aten::mm", ("MmBackward0", "range: lru"), 1), "recurrence (kernels, products and the rest of the LRU)"),
        (Op("gramian::glu_dropout_add", ("range: step",), 1), "GLU with dropout and skip"),
        (Op("gramian::linear_backward", (), 1), "GLU with dropout and skip"),
        (Op("gramian::gelu_dropout", (), 1), "GELU with dropout"),
        (Op("gramian::normalize_rows_backward", (), 1), "batch norm"),
        (Op("gramian::scan", (), 1), "recurrence (kernels, products and the rest of the LRU)"),
        (Op("aten::mm", ("range: step",), 1), "matrix products of no known module"),
        (Op("range: step", (), 1), "Python and the profiler, outside of operators"),
        (Op("aten::zeros", ("range: step",), 1), OTHER),
    ],
)
def test_group_is_that_of_the_operator_or_of_what_it_runs_in(op: Op, group: str) -> None:
    assert group_of(op) == group
