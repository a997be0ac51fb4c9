"""The H2 norm against the time domain and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from gramian.systems.h2 import h2_norm
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import hinf_norm, impulse_response, simulate
from systems_zoo import (
    EXAMPLES,
    lag,
    normal,
    random_system,
    systems,
    term_size,
)

each_example = pytest.mark.parametrize("name", EXAMPLES)


@each_example
def test_h2_norm_is_the_energy_of_the_impulse_response(name: str) -> None:
    system = EXAMPLES[name]()
    energy = impulse_response(system, 1200).abs().square().sum()
    torch.testing.assert_close(h2_norm(system), energy.sqrt(), rtol=1e-12, atol=0)


def test_h2_norm_is_the_energy_of_simulated_impulses() -> None:
    system = random_system(4, 2, 3, radius=(0.3, 0.9), D=True)
    impulses = torch.zeros(2, 400, 2, dtype=torch.float64)
    impulses[0, 0, 0] = impulses[1, 0, 1] = 1
    torch.testing.assert_close(h2_norm(system), simulate(system, impulses).square().sum().sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("pole", [0.5, -0.9, 1 - 1e-7])
def test_h2_norm_of_a_first_order_lag(pole: float) -> None:
    assert float(h2_norm(lag(pole, 3.0))) == pytest.approx(3 / np.sqrt((1 - pole) * (1 + pole)), rel=1e-12)


@pytest.mark.parametrize("relative", [1e-4, 1e-8, 1e-12])
def test_h2_norm_of_a_small_difference_keeps_its_digits(relative: float) -> None:
    fom = random_system(6, 2, 2, radius=(0.5, 0.999))
    change = relative * normal(6, 2, seed=8)
    moved = fom.B + change
    wanted = h2_norm(LinearSystem(fom.A, moved - fom.B, fom.C, real_part=True))
    found = h2_norm(fom - LinearSystem(fom.A, moved, fom.C, real_part=True))
    torch.testing.assert_close(found, wanted, rtol=1e-14 / relative, atol=0)


def test_h2_norm_keeps_its_digits_where_feed_through_cancels_the_first_response() -> None:
    fast = lag(1e-9)
    system = LinearSystem(fast.A, fast.B, fast.C, torch.tensor([[-1.0]], dtype=torch.float64))
    assert float(h2_norm(system)) == pytest.approx(1e-9, rel=1e-12)


def test_only_the_real_part_of_the_feed_through_counts_in_a_real_part_system() -> None:
    plain = random_system(3, 2, 2, D=True)
    system = LinearSystem(plain.A, plain.B, plain.C, plain.D + 5j, real_part=True)
    assert float(h2_norm(system)) == pytest.approx(float(h2_norm(plain)), rel=1e-13)
    assert float(hinf_norm(system)) == pytest.approx(float(hinf_norm(plain)), rel=1e-13)
    torch.testing.assert_close(impulse_response(system, 4), impulse_response(plain, 4), rtol=1e-13, atol=1e-13)


@given(system=systems())
def test_h2_norm_is_at_most_the_hinf_norm_times_the_root_of_the_channels(system: LinearSystem) -> None:
    channels = min(system.n_inputs, system.n_outputs)
    assert h2_norm(system) <= channels**0.5 * hinf_norm(system) * (1 + 1e-5) + 1e-13 * term_size(system)
