"""The LRU as a recurrence and as a linear system."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from lru_examples import Realization, inputs, make_lru

from gramian.errors import ConfigError, ShapeError
from gramian.layers.lru import LRU
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.norms import simulate

FINITE_32 = (
    st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-20, 20, width=32) | st.sampled_from([-1e30, 0.0, 1e30])
)
COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 63])
def test_parallel_form_is_the_step_form(length: int, dtype: torch.dtype) -> None:
    layer = make_lru(dtype=dtype, r_max=0.999)
    u, state = inputs(layer, 3, length), layer.initial_state(3)
    y, final = layer.scan(u)
    steps = []
    for k in range(length):
        y_k, state = layer.step(u[:, k], state)
        steps.append(y_k)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(y, torch.stack(steps, 1), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(final, state, rtol=tolerance, atol=tolerance)
    assert torch.equal(layer(u), y)


@pytest.mark.parametrize("pieces", [(63,), (0, 63), (1, 62), (17, 0, 1, 45), (32, 31)])
def test_streaming_in_pieces_is_the_same_as_in_one_go(pieces: tuple[int, ...]) -> None:
    layer = make_lru(dtype=torch.float64)
    u = inputs(layer, 3, 63)
    state, outputs = layer.initial_state(3), []
    for piece in u.split(pieces, dim=1):
        y, state = layer.scan(piece, state)
        outputs.append(y)
    whole, final = layer.scan(u)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-12, atol=1e-12)


def test_every_sequence_of_a_padded_batch_is_as_it_would_be_alone() -> None:
    layer = make_lru(dtype=torch.float64)
    u, lengths = inputs(layer, 4, 50), torch.tensor([0, 1, 37, 50])
    state = layer.scan(inputs(layer, 4, 5, seed=3))[1]
    y, final = layer.scan(u, state, lengths)
    for i, steps in enumerate(lengths.tolist()):
        y_alone, alone = layer.scan(u[i : i + 1, :steps], state[i : i + 1])
        torch.testing.assert_close(final[i : i + 1], alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(y[i : i + 1, :steps], y_alone, rtol=1e-12, atol=1e-12)


@given(
    nu_log=st.lists(FINITE_32, min_size=4, max_size=4),
    theta_log=st.lists(FINITE_32, min_size=4, max_size=4),
    d_model=st.sampled_from([1, 3]),
    rank=st.integers(1, 4),
)
@example([1e30, 1e30, -1e30, -1e30], [1e30, -1e30, 1e30, -1e30], 3, 2)
@example([-0.4, -0.35, 0.0, 3.0], [0.0, 0.1, 0.2, 0.3], 1, 3)  # powers within a chunk underflow
def test_poles_stay_inside_the_circle_for_any_parameters_before_and_after_a_cut(
    nu_log: list[float], theta_log: list[float], d_model: int, rank: int
) -> None:
    layer = make_lru(d_model, 4)
    with torch.no_grad():
        layer.nu_log.copy_(torch.tensor(nu_log))
        layer.theta_log.copy_(torch.tensor(theta_log))
    u = inputs(layer, 2, 150)
    assert_bounded(layer, u)
    reduction = layer.propose(rank)
    for moment_map in reduction.moments.values():
        assert moment_map.first.isfinite().all()
        assert moment_map.second.isfinite().all()
    if reduction.accepted:
        layer.apply_(reduction)
        assert_bounded(layer, u)
        assert all(p.isfinite().all() for p in layer.parameters())


def assert_bounded(layer: LRU, u: torch.Tensor) -> None:
    """``|lambda| < 1`` as float32 sees it: what the recurrence multiplies with shrinks every state."""
    unit = torch.eye(layer.d_state, dtype=torch.complex64)
    _, poles = layer.step(torch.zeros(layer.d_state, layer.d_model), unit)
    assert (poles.diagonal().abs() < 1).all()
    y = layer(u)
    assert y.isfinite().all()
    layer.zero_grad()
    y.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_and_output_follow_the_precision_of_the_layer(dtype: torch.dtype) -> None:
    layer = make_lru(dtype=dtype)
    u = inputs(layer)
    y, state = layer.scan(u)
    assert (y.dtype, state.dtype, layer.initial_state(1).dtype) == (dtype, COMPLEX_OF[dtype], COMPLEX_OF[dtype])
    exact = copy.deepcopy(layer).double()(u.double())
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_bfloat16_layer_computes_in_float32_and_rounds_once() -> None:
    layer = make_lru().bfloat16()
    u = inputs(layer)
    y, state = layer.scan(u)
    in_float32, its_state = copy.deepcopy(layer).float().scan(u.float())
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.complex64)
    assert torch.equal(y, in_float32.bfloat16())
    assert torch.equal(state, its_state)
    assert torch.equal(layer.step(u[:, 0], layer.initial_state(2))[0], y[:, 0])


def test_autocast_does_not_touch_the_recurrence() -> None:
    layer, embed = make_lru(), torch.nn.Linear(3, 3)
    u = inputs(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedded = embed(u)
        y = layer(embedded)
        y_step, _ = layer.step(embedded[:, 0], layer.initial_state(2))
    assert (embedded.dtype, y.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(y, layer(embedded.float()).bfloat16())
    torch.testing.assert_close(y_step, y[:, 0])
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("realization", ["real", "complex"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_linear_system_is_the_layer(dtype: torch.dtype, tolerance: float, realization: Realization) -> None:
    layer = make_lru(dtype=dtype, realization=realization, r_max=0.99)
    u = inputs(layer, 1, 63)[0]
    system = layer.linear_system()
    y = simulate(system, u)
    assert y.is_complex() == (realization == "complex")
    assert system.order == 8 * (2 if realization == "real" else 1)
    torch.testing.assert_close(y.real, layer(u[None])[0].double(), rtol=tolerance, atol=tolerance)


def test_the_linear_system_is_exact_next_to_the_unit_circle() -> None:
    layer = make_lru()
    with torch.no_grad():
        layer.nu_log.fill_(-13.0)
    logs = layer.linear_system().log_poles.real
    torch.testing.assert_close(logs, -layer.nu_log.detach().double().exp(), rtol=1e-15, atol=0.0)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_spectrum_is_that_of_the_linear_system(realization: Realization) -> None:
    layer = make_lru(realization=realization)
    spectrum = layer.spectrum()
    assert len(spectrum.values) == layer.d_state * (2 if realization == "real" else 1)
    assert spectrum.d_state == layer.d_state
    assert spectrum.measure == f"Hankel singular values ({realization} realization)"
    assert (spectrum.values[:-1] >= spectrum.values[1:]).all()
    assert spectrum.system is not None
    torch.testing.assert_close(spectrum.values, hankel_singular_values(spectrum.system), rtol=1e-12, atol=0)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_spectrum_does_not_see_order_or_scale_of_the_states_or_the_feed_through(realization: Realization) -> None:
    layer = make_lru(dtype=torch.float64, realization=realization)
    before = layer.spectrum().values
    with torch.no_grad():
        scale = torch.logspace(-1, 2, layer.d_state, dtype=torch.float64)
        turn = torch.polar(torch.ones_like(scale), torch.arange(8, dtype=torch.float64))
        B = torch.complex(layer.B_re, layer.B_im) * (scale * turn)[:, None]
        C = torch.complex(layer.C_re, layer.C_im) / (scale * turn)
        layer.B_re.copy_(B.real), layer.B_im.copy_(B.imag)
        layer.C_re.copy_(C.real), layer.C_im.copy_(C.imag)
        layer.D.normal_()
        for name, p in layer.named_parameters():
            if name != "D":
                p.copy_(p.flip(1 if name.startswith("C") else 0))
    torch.testing.assert_close(layer.spectrum().values, before, rtol=1e-9, atol=1e-12)


def test_only_the_real_spectrum_belongs_to_the_layer_and_not_to_how_it_is_written() -> None:
    for realization in ("real", "complex"):
        layer = make_lru(dtype=torch.float64, realization=realization)
        u, before = inputs(layer), layer.spectrum().values
        y = layer(u)
        with torch.no_grad():  # half of the modes are replaced by their conjugates
            layer.theta_log[:4] = (2 * torch.pi - layer.theta_log[:4].exp()).log()
            layer.B_im[:4] *= -1
            layer.C_im[:, :4] *= -1
        torch.testing.assert_close(layer(u), y, rtol=1e-12, atol=1e-12)
        moved = (layer.spectrum().values - before).abs().max() / before[0]
        assert moved < 1e-12 if realization == "real" else moved > 1e-3


def test_a_new_layer_starts_in_the_ring_it_was_asked_for() -> None:
    layer = make_lru(d_state=500, r_min=0.7, r_max=0.8, max_phase=1.0)
    poles = layer.linear_system().A
    assert (poles.abs() > 0.7 - 1e-6).all()
    assert (poles.abs() < 0.8 + 1e-6).all()
    assert (poles.angle() >= 0).all()
    assert (poles.angle() <= 1.0 + 1e-6).all()
    gain = layer.gamma_log.exp().square() + poles.abs().square()
    torch.testing.assert_close(gain, torch.ones_like(gain), rtol=1e-5, atol=1e-5)  # gamma^2 = 1 - |lambda|^2


def test_a_new_layer_with_poles_on_the_whole_disc_is_finite() -> None:
    layer = make_lru(d_state=64, r_min=0.0, r_max=1.0)
    assert all(p.isfinite().all() for p in layer.parameters())
    assert layer(inputs(layer)).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"d_state": 0}, ShapeError, "needed: at least 1"),
        ({"d_model": 0}, ShapeError, "needed: at least 1"),
        ({"r_min": 0.9, "r_max": 0.5}, ConfigError, "r_min < r_max <= 1"),
        ({"r_max": 1.5}, ConfigError, "r_min < r_max <= 1"),
        ({"realization": "reel"}, ConfigError, "Did you mean 'real'"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        LRU(**{"d_model": 2, "d_state": 4, **wrong})
