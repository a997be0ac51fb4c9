"""The CUDA kernels of other packages, through stand-ins: which shapes and types they are given, and when."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from causal_conv_examples import example
from selective_sequences import random_sequences, run
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError
from gramian.kernels import causal_conv1d, mamba_packages, selective_scan
from gramian.kernels.mamba_packages import conv_by_package, scan_by_package, why_not_conv, why_not_scan


def scan_of_the_package(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """u, delta, z ``(batch, channels, L)``; B, C ``(batch, groups, N, L)``; one dtype for all of these."""
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert A.dtype == torch.float32
    each = u.shape[1] // B.shape[1]
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = F.softplus(delta) if delta_softplus else delta
    h, ys = torch.zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        B_t, C_t = (m[..., t].repeat_interleave(each, 1) for m in (B, C))
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta * u)[:, :, t, None] * B_t
        ys.append((h * C_t).sum(-1))
    y = torch.stack(ys, 2)
    y = y if D is None else y + D[:, None] * u
    y = (y if z is None else y * F.silu(z)).to(u.dtype)
    return (y, h) if return_last_state else y


def conv_of_the_package(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: None = None,
    activation: str | None = None,
) -> Tensor:
    """x ``(batch, channels, L)`` with channels innermost, initial states ``(batch, channels, width - 1)`` likewise."""
    assert x.stride(1) == 1
    before = torch.zeros(*x.shape[:2], weight.shape[1] - 1) if initial_states is None else initial_states
    assert initial_states is None or initial_states.stride(1) == 1
    y = F.conv1d(torch.cat([before, x], 2), weight[:, None], bias, groups=x.shape[1])
    return F.silu(y) if activation == "silu" else y


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    interface, conv = ModuleType("mamba_ssm.ops.selective_scan_interface"), ModuleType("causal_conv1d")
    interface.selective_scan_fn, conv.causal_conv1d_fn = scan_of_the_package, conv_of_the_package
    monkeypatch.setitem(sys.modules, "mamba_ssm", ModuleType("mamba_ssm"))
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", ModuleType("mamba_ssm.ops"))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.setitem(sys.modules, "causal_conv1d", conv)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("gated", [True, False])
def test_a_scan_by_the_package_is_the_scan(gated: bool) -> None:
    t = random_sequences((2, 9, 6, 3, 2), torch.float32)
    t.pop("state")
    if not gated:
        t["z"] = t["D"] = t["dt_bias"] = None
    names = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")
    y, final = scan_by_package(*(t[name] for name in names), True, True)
    expected = run(t, "reference")
    torch.testing.assert_close(y, expected[0])
    torch.testing.assert_close(final, expected[1])
    torch.testing.assert_close(scan_by_package(*(t[name] for name in names), True, False)[0], expected[0])


@pytest.mark.usefixtures("packages")
def test_a_convolution_by_the_package_is_the_convolution() -> None:
    x, weight, bias, state = example((2, 9, 8, 4), torch.float32)
    for arguments in ((weight, bias, state), (weight, None, None)):
        for activation in ("silu", None):
            expected = causal_conv1d(x, *arguments, activation=activation, backend="reference")[0]
            torch.testing.assert_close(conv_by_package(x, *arguments, activation == "silu"), expected)


def test_where_packages_are_missing_the_reason_is_told() -> None:
    t = random_sequences((2, 9, 6, 3, 2))
    for name in ("mamba_ssm", "selective_scan_cuda", "causal_conv1d", "causal_conv1d_cuda"):
        if name in sys.modules:
            pytest.skip("the packages are here")
    with pytest.raises(ConfigError, match="'mamba_ssm' was asked for, and cannot run: mamba_ssm is not installed"):
        selective_scan(**t, backend="mamba_ssm")
    with pytest.raises(ConfigError, match="causal_conv1d is not installed"):
        causal_conv1d(t["u"], torch.ones(6, 4), backend="causal_conv1d")


def test_what_the_packages_cannot_do_they_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_packages, "find_spec", lambda name: object())
    u, A, state = torch.zeros(2, 3, 8), torch.zeros(8, 300), torch.zeros(2, 8, 300)
    assert "CUDA devices" in why_not_scan(u, A, None, False)
    assert "CUDA devices" in why_not_conv(u, 4)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    assert why_not_scan(u, A[:, :256], None, False) == ""
    assert "256 states at most" in why_not_scan(u, A, None, False)
    assert "float64" in why_not_scan(u.double(), A[:, :4], None, False)
    assert "starts from zero" in why_not_scan(u, A[:, :4], state[:, :, :4], False)
    assert "no gradient" in why_not_scan(u, A[:, :4], None, True)
    with torch.no_grad():
        assert why_not_scan(u, A[:, :4], None, True) == ""
    assert why_not_conv(u, 4) == ""
    assert "widths 2 to 4" in why_not_conv(u, 5)
    assert "float64" in why_not_conv(u.double(), 4)
    assert "multiples of 8" in why_not_conv(u[..., :5], 4)
    assert "side by side" in why_not_conv(u.mT, 4)
