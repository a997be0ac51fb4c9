"""Measures have names, are values, and tell what they need."""

from __future__ import annotations

import pytest

from gramian.errors import GramianError
from gramian.layers.selective.measures import MEASURES, Measure, RandomOrder, Regression, Taylor, measure_named


def test_every_measure_is_found_by_its_own_name() -> None:
    assert set(MEASURES) == {
        *("regression", "balanced", "energy", "taylor", "fisher", "empirical", "mean-dynamics", "magnitude", "random"),
    }
    for name, kind in MEASURES.items():
        measure = measure_named(name)
        assert type(measure) is kind
        assert isinstance(measure, Measure)
        assert measure.name == name
        assert kind.__doc__


@pytest.mark.parametrize(("wrong", "right"), [("regresion", "regression"), ("mean_dynamics", "mean-dynamics")])
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(GramianError, match=rf"'{wrong}' was given; needed: one of .*Did you mean '{right}'\?"):
        measure_named(wrong)


def test_measures_are_equal_when_they_say_the_same() -> None:
    assert Regression() == Regression() != Taylor()
    assert RandomOrder(seed=1) == RandomOrder(1) != RandomOrder(2)
    assert len({RandomOrder(1), RandomOrder(1), Taylor()}) == 2


def test_only_measures_of_the_loss_need_gradients_and_can_be_compared() -> None:
    assert {name for name, kind in MEASURES.items() if kind.needs_gradient} == {"taylor", "fisher"}
    assert {name for name, kind in MEASURES.items() if kind.comparable} == {"taylor", "fisher"}
