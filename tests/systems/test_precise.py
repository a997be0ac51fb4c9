"""Against 50-digit arithmetic: what is near 1, and what is near each other, keeps its digits."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.systems.precise import log_of_poles, one_minus_products, pole_differences
from systems_zoo import EPS

angles = st.floats(-math.pi, math.pi)
decays = st.floats(-16.0, 1.5).map(lambda x: 10.0**x)  # -log|pole|


def tensor(*values: complex) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.complex128)


@given(decay=decays, angle=angles)
def test_log_modulus_of_a_pole_has_a_small_relative_error_however_near_the_circle(decay: float, angle: float) -> None:
    pole = torch.polar(*(torch.tensor(x, dtype=torch.float64) for x in (math.exp(-decay), angle)))
    computed = complex(log_of_poles(pole))
    with mp.workdps(50):
        exact = mp.log(mp.mpc(complex(pole)))
        assert abs(computed.real - exact.real) <= 8 * EPS * abs(exact.real)
        assert abs(computed.imag - exact.imag) <= 2 * EPS * abs(exact.imag) + 1e-323  # two subnormal steps


@pytest.mark.parametrize("distance", [1e-15, 1e-13, 1e-10, 1e-7, 1e-3])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.7, math.pi / 4, math.pi / 2, 2.5, math.pi])
def test_plain_logarithm_loses_the_digits_that_log_of_poles_keeps(distance: float, angle: float) -> None:
    pole = (1 - distance) * complex(math.cos(angle), math.sin(angle))
    with mp.workdps(50):
        exact = mp.log(abs(mp.mpc(pole)))
        kept = abs((complex(log_of_poles(tensor(pole))[0]).real - exact) / exact)
        plain = abs((math.log(abs(pole)) - exact) / exact) if abs(pole) != 1 else mp.mpf(1)
    assert kept <= 8 * EPS
    assert kept <= plain + 8 * EPS


def test_distance_to_the_circle_of_a_pole_that_hypot_rounds_to_one_is_seen() -> None:
    pole = tensor(complex(0.6, 0.8))  # neither 0.6 nor 0.8 is a float: the modulus is 1 - 3.6e-17
    assert float(pole.abs()) == 1.0
    with mp.workdps(50):
        exact = float(mp.log(abs(mp.mpc(complex(pole)))))
    assert float(log_of_poles(pole).real) == pytest.approx(exact, rel=1e-12)
    assert exact != 0.0


def test_pole_at_zero_has_a_finite_logarithm_whose_exponential_is_zero() -> None:
    log = log_of_poles(tensor(0.0))
    assert torch.isfinite(log).all()
    assert complex(torch.exp(log)) == 0


@given(left=decays, right=decays, one=angles, two=angles, same=st.sampled_from([0, 1, -1]))
def test_one_minus_product_of_two_poles_is_exact_to_a_few_ulp(
    left: float, right: float, one: float, two: float, same: int
) -> None:
    if same:  # a pole with itself or with its conjugate: the products next to 1, also those of poles next to -1
        two = same * one
    a, b = complex(-left, one), complex(-right, two)
    computed = complex(one_minus_products(tensor(a), tensor(b))[0])
    with mp.workdps(50):
        exact = 1 - mp.exp(mp.mpc(a) + mp.mpc(b))
        assert abs(computed - exact) <= 8 * EPS * abs(exact)


@pytest.mark.parametrize("distance", [1e-15, 1e-10, 1e-7])
def test_one_minus_product_keeps_its_digits_for_poles_next_to_minus_one(distance: float) -> None:
    log = complex(-distance, math.pi - 3 * distance)
    computed = complex(one_minus_products(tensor(log), tensor(log))[0])
    with mp.workdps(50):
        exact = 1 - mp.exp(2 * mp.mpc(log))
        assert abs(computed - exact) <= 8 * EPS * abs(exact)


@given(
    log_decay=st.floats(-12.0, 1.0),
    angle=angles,
    apart=st.floats(-15.0, 0.5).map(lambda x: 10.0**x),
    direction=angles,
)
def test_difference_of_two_poles_is_exact_to_a_few_ulp_however_near_they_are(
    log_decay: float, angle: float, apart: float, direction: float
) -> None:
    pivot = complex(-(10.0**log_decay), angle)
    other = pivot + apart * complex(math.cos(direction), math.sin(direction))
    computed = complex(pole_differences(tensor(other), tensor(pivot))[0])
    with mp.workdps(50):
        exact = mp.exp(mp.mpc(other)) - mp.exp(mp.mpc(pivot))
        assert abs(computed - exact) <= 16 * EPS * abs(exact)


def test_difference_between_a_pole_next_to_minus_one_and_its_conjugate_keeps_its_digits() -> None:
    log = complex(-1e-7, math.pi - 1e-9)
    computed = complex(pole_differences(tensor(log), tensor(log.conjugate()))[0])
    with mp.workdps(50):
        exact = mp.exp(mp.mpc(log)) - mp.exp(mp.conj(mp.mpc(log)))
        assert abs(computed - exact) <= 8 * EPS * abs(exact)


def test_difference_of_a_pole_to_itself_is_zero_also_at_the_origin() -> None:
    logs = torch.cat([log_of_poles(tensor(0.0)), tensor(complex(-1e-9, 2.0))])
    assert (pole_differences(logs, logs) == 0).all()
