"""Growth of a cost: exponents of power laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gramian.lab.bench.fits import fit_power_law

SIZES = (8, 16, 32, 64, 128, 256)


@given(exponent=st.floats(-2, 4), factor=st.floats(1e-6, 1e3))
def test_exponent_and_factor_of_a_power_law_are_recovered(exponent: float, factor: float) -> None:
    law = fit_power_law(SIZES, [factor * n**exponent for n in SIZES])
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.factor == pytest.approx(factor, rel=1e-9)
    assert law(1000) == pytest.approx(factor * 1000**exponent, rel=1e-8)


def test_only_the_upper_half_of_the_range_is_fitted() -> None:
    costs = [n**2.0 if n >= 64 else 4096.0 for n in SIZES]
    law = fit_power_law(SIZES, costs)
    assert law.exponent == pytest.approx(2)
    assert law.first == 64


def test_two_sizes_are_enough() -> None:
    law = fit_power_law((1, 2), (3.0, 12.0))
    assert law.exponent == pytest.approx(2)
