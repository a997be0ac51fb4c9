"""Layers with matrix-valued states: the balanced projection of their keys, and selection where nothing else fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gramian import Compressor, Energy, Every, LinearAttention, Mamba2, Rank, compress_
from gramian.layers.calibration import Calibration, calibrate
from gramian.layers.reduction import IndexMap, MomentMap, OutputError
from gramian.layers.selective.measures import Balanced, ContributionEnergy, RandomOrder
from gramian.layers.selective.signals import contributions
from gramian.systems.gramians import square_root

ROTATING = {
    "attention with fixed decays": lambda: LinearAttention(16, 8, n_heads=2, gate="fixed"),
    "attention with a decay a head": lambda: LinearAttention(16, 8, n_heads=2),
    "projected Mamba-2": lambda: Mamba2(16, 8, head_dim=8, projection=8),
    "projected Mamba-2 in groups": lambda: Mamba2(16, 8, head_dim=8, n_groups=2, projection=8),
}
SELECTING = {
    "attention with a gate a key": lambda: LinearAttention(16, 8, n_heads=2, gate="key"),
    "Mamba-2": lambda: Mamba2(16, 8, head_dim=8),
    "Mamba-2 in groups with biases": lambda: Mamba2(16, 8, head_dim=8, n_groups=2, bias=True),
}
ALL = {**ROTATING, **SELECTING}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layer = ALL[kind]().double()
    with torch.no_grad():
        if isinstance(layer, Mamba2):
            layer.D.zero_()  # all of the output passes through the states
    return layer


def batches(count: int = 4, length: int = 24, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(16, 16, generator=generator, dtype=torch.float64) * torch.logspace(0, -1.5, 16).double()
    return [torch.randn(4, length, 16, generator=generator, dtype=torch.float64) @ mixing for _ in range(count)]


def spectrum_of(layer, **options):  # type: ignore[no-untyped-def]
    calibration = Calibration(batches(), **options)
    return layer.calibrated_spectrum(calibrate(nn.Sequential(layer), {"0": layer}, calibration)["0"], calibration)


@pytest.mark.parametrize("kind", ALL)
def test_contributions_sum_to_the_output(kind: str) -> None:
    layer, x = made(kind), batches(1)[0]
    pieces = list(contributions(layer.signals(x), torch.arange(x.shape[1])))
    M, C = torch.cat([p.M for p in pieces]), torch.cat([p.C for p in pieces])
    total = torch.einsum("sgdn,sgn->sd", M, C)
    bias = layer.out_proj.bias
    torch.testing.assert_close(total.view_as(x) + (0 if bias is None else bias), layer(x))


@pytest.mark.parametrize("kind", ROTATING)
def test_all_balanced_directions_together_change_nothing(kind: str) -> None:
    layer, x = made(kind), batches(1, seed=5)[0]
    spectrum = spectrum_of(layer, mix=False, measure=Balanced())
    before = layer(x)
    assert spectrum.calibrated is not None
    ranking = spectrum.calibrated.ranking
    assert ranking.to_B is not None
    assert ranking.to_C is not None
    identity = torch.eye(8, dtype=torch.float64).expand_as(ranking.to_B)
    torch.testing.assert_close(ranking.to_B @ ranking.to_C.mT, identity, rtol=0, atol=1e-6)
    layer.apply_(layer.propose(8, spectrum=spectrum))
    torch.testing.assert_close(layer(x), before, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [k for k in ROTATING if "attention" in k])
def test_a_balanced_projection_loses_less_than_half_of_what_selections_lose(kind: str) -> None:
    def error(**options):  # type: ignore[no-untyped-def]
        layer = made(kind)
        measurement = layer.propose(4, spectrum=spectrum_of(layer, **options)).measurement
        assert isinstance(measurement, OutputError)
        return measurement.held_out

    balanced = error(mix=False, measure=Balanced())
    assert balanced < 0.5 * error(mix=False, measure=ContributionEnergy())
    assert balanced < 0.5 * error(mix=False, measure=RandomOrder())


def test_predicted_errors_are_those_of_the_readout_where_states_and_queries_are_independent() -> None:
    """``sqrt(sum of s_k^2)`` beyond the rank, for values that have nothing to do with the queries."""
    torch.manual_seed(3)
    n, samples = 6, 200_000
    M = torch.randn(samples, 4, n, dtype=torch.float64) * torch.logspace(0, -1, n).double()
    C = torch.randn(samples, n, dtype=torch.float64) @ torch.randn(n, n, dtype=torch.float64)
    P, Q = torch.einsum("sdn,sdm->nm", M, M) / samples, C.mT @ C / samples
    L_P, L_Q = square_root(P), square_root(Q)
    U, s, Vh = torch.linalg.svd(L_Q.mT @ L_P)
    W, T = (L_Q @ U / s.sqrt())[:, :3], (L_P @ Vh.mT / s.sqrt())[:, :3]
    lost = torch.einsum("sdn,nr,mr,sm->sd", M, W, T, C) - torch.einsum("sdn,sn->sd", M, C)
    predicted = s[3:].square().sum().sqrt()
    assert abs(float(lost.square().sum(1).mean().sqrt() / predicted) - 1) < 0.02


@pytest.mark.parametrize("kind", ALL)
def test_a_cut_layer_trains_on_with_its_moments(kind: str) -> None:
    layer = made(kind)
    net = nn.Sequential(layer)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    compressor = Compressor(
        net, optimizer, policy=Rank(4), schedule=Every(2, until=2), calibration=Calibration(batches())
    )
    identities = {name: id(p) for name, p in net.named_parameters()}
    for x in batches(4, seed=7):
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        event = compressor.step()
    assert not event.changed
    assert layer.d_state == 4
    assert {name: id(p) for name, p in net.named_parameters()} == identities
    for parameter in net.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
        assert parameter.isfinite().all()


@pytest.mark.parametrize("kind", ALL)
def test_moments_follow_indices_or_the_dual_matrices(kind: str) -> None:
    layer = made(kind)
    maps = layer.propose(4, spectrum=spectrum_of(layer)).moments.values()
    assert {type(m) for m in maps} == ({MomentMap} if kind in ROTATING else {IndexMap})


@pytest.mark.parametrize("kind", SELECTING)
def test_selection_is_deleting_states(kind: str) -> None:
    """The smaller layer is the old one with the other states' keys set to zero."""
    layer, x = made(kind), batches(1, seed=9)[0]
    spectrum = spectrum_of(layer)
    reduction = layer.propose(3, spectrum=spectrum)
    signals = layer.signals(x)
    assert spectrum.calibrated is not None
    order = spectrum.calibrated.ranking.order
    assert order is not None
    kept = torch.zeros(signals.groups, 8, dtype=torch.float64).scatter(1, order[:, :3], 1.0)
    pieces = list(contributions(signals, torch.arange(x.shape[1])))
    layer.apply_(reduction)
    smaller = list(contributions(layer.signals(x), torch.arange(x.shape[1])))
    # compared before the normalisation, whose scale changes with the states
    for before, after in zip(pieces, smaller, strict=True):
        old = torch.einsum("sgpn,sgn->sgp", before.h * kept[:, None], before.C)
        torch.testing.assert_close(torch.einsum("sgpn,sgn->sgp", after.h, after.C), old)


def test_a_balanced_projection_is_refused_where_states_are_forgotten_differently() -> None:
    layer = made("attention with a gate a key")
    with pytest.raises(Exception, match="'balanced' was given for LinearAttention"):
        spectrum_of(layer, measure=Balanced())


def test_compress_takes_plain_batches() -> None:
    layer = made("attention with a decay a head")
    event = compress_(nn.Sequential(layer), Energy(tau=0.3), calibration=batches())
    assert event.changed
    assert "no a-priori guarantee" in str(event)
    assert layer.d_state < 8
