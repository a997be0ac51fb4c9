"""Mamba-2: transformers' mixer, step by step the same as at once, and with projections the same layer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from layer_checks import (
    assert_autocast_changes_little,
    assert_one_graph,
    assert_pieces_are_the_whole,
    assert_steps_are_the_sequence,
    sequences,
)
from torch import Tensor

from gramian.errors import ShapeError
from gramian.kernels import SSD_BACKENDS
from gramian.layers.mamba2 import Mamba2

WITHOUT_TRANSFORMERS = "compares with transformers: pip install 'gramian[hf]'"


WIDTHS = (12, 16)  # rows of weights that are no whole lines of the caches, and rows that are


def layer(seed: int = 0, d_model: int = 12, **options: Any) -> Mamba2:
    torch.manual_seed(seed)
    return Mamba2(d_model, **{"d_state": 6, "head_dim": 4, "n_groups": 2, **options}).double()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("projection", [None, 4])
def test_steps_are_the_sequence(batch: int, projection: int | None) -> None:
    for width in WIDTHS:
        for length in (1, 2, 70):
            assert_steps_are_the_sequence(layer(0, width, projection=projection), sequences(batch, length, width))


@pytest.mark.parametrize("projection", [None, 4])
def test_pieces_are_the_whole(projection: int | None) -> None:
    for width in WIDTHS:
        assert_pieces_are_the_whole(layer(0, width, projection=projection), sequences(2, 41, width))


def test_it_is_what_its_equations_say() -> None:
    mamba, u = layer(n_groups=1, bias=True), sequences(2, 9, 12)
    z, x, B, C, dt = mamba.in_proj(u).split([24, 24, 6, 6, 6], -1)
    padded = torch.nn.functional.pad(torch.cat([x, B, C], -1), (0, 0, 3, 0))
    w = mamba.conv1d.weight[:, 0]
    convolved = torch.stack([(padded[:, t : t + 4] * w.mT).sum(1) for t in range(9)], 1) + mamba.conv1d.bias
    x, B, C = torch.nn.functional.silu(convolved).split([24, 6, 6], -1)
    delta = torch.log1p(torch.exp(dt + mamba.dt_bias))
    S, y = torch.zeros(2, 6, 4, 6, dtype=torch.float64), []
    for t in range(9):
        x_t = x[:, t].unflatten(-1, (6, 4))
        S = torch.exp(-mamba.A_log.exp() * delta[:, t])[..., None, None] * S
        S = S + (delta[:, t, :, None] * x_t)[..., None] * B[:, t, None, None]
        y.append((S @ C[:, t, None, :, None])[..., 0] + mamba.D[:, None] * x_t)
    gated = torch.stack(y, 1).flatten(2) * torch.nn.functional.silu(z)
    normal = gated / torch.sqrt(gated.square().mean(-1, keepdim=True) + 1e-5) * mamba.norm.weight
    torch.testing.assert_close(mamba(u), mamba.out_proj(normal))


@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_transformers_mixer(groups: int) -> None:
    """On its weights, and loads them both ways; outputs and all gradients, in float32."""
    pytest.importorskip("transformers", reason=WITHOUT_TRANSFORMERS)
    theirs = transformers_mixer(groups)
    ours = Mamba2(32, 16, head_dim=8, n_groups=groups)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    u = sequences(3, 70, 32, torch.float32).requires_grad_()
    weight = sequences(3, 70, 32, torch.float32, seed=1)
    results: list[dict[str, Tensor]] = []
    for module in (ours, theirs):
        leaves = {"u": u, **dict(module.named_parameters())}
        y = module(u)
        grads = torch.autograd.grad((y * weight).sum(), list(leaves.values()))
        results.append({"y": y, **dict(zip(leaves, grads, strict=True))})
    assert set(results[0]) == set(results[1])
    for name, value in results[1].items():
        error = float(((results[0][name] - value).abs().max() / (1 + value.abs().max())).detach())
        assert error < 1e-5, f"{name} differs by {error:.2g}"


def transformers_mixer(groups: int) -> torch.nn.Module:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": 32, "state_size": 16, "num_heads": 8, "head_dim": 8, "n_groups": groups}
    torch.manual_seed(0)
    mixer = Mamba2Mixer(Mamba2Config(**sizes, chunk_size=32, num_hidden_layers=1, vocab_size=8), 0)
    with torch.no_grad():
        for parameter in (mixer.norm.weight, mixer.D):  # they start as ones, which would hide where they enter
            parameter.normal_()
    return mixer


def test_projections_start_as_the_layer_without() -> None:
    plain, u = layer(), sequences(2, 20, 12)
    for rank in (6, 4):
        projected = layer(projection=rank)
        missing = projected.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert missing == ["B_projection", "C_projection"]
        assert (projected.d_state, projected.d_key) == (rank, 6)
        assert torch.allclose(projected(u), plain(u), rtol=1e-12, atol=1e-12) == (rank == 6)
        assert projected.initial_state(3).ssm.shape == (3, 6, 4, rank)


def test_a_change_of_basis_of_the_projections_changes_nothing() -> None:
    projected, u = layer(projection=6), sequences(2, 20, 12)
    before = projected(u)
    T = torch.eye(6, dtype=torch.float64) + 0.2 * torch.randn(6, 6, dtype=torch.float64)
    with torch.no_grad():
        for name, change in (("B_projection", T), ("C_projection", torch.linalg.inv(T).mT)):
            rows = projected.get_parameter(name).unflatten(0, (-1, 6))
            rows.copy_(change @ rows)
    torch.testing.assert_close(projected(u), before)


@pytest.mark.parametrize("backend", ["auto", *(b for b in SSD_BACKENDS if b != "reference")])
def test_every_backend_gives_the_same(backend: str) -> None:
    for width in WIDTHS:
        u = sequences(2, 70, width)
        slow = layer(0, width, backend="reference")
        torch.testing.assert_close(layer(0, width, backend=backend, chunk=16)(u), slow(u))


def test_hooks_and_other_modules_in_place_of_projections_have_their_say() -> None:
    mamba, u = layer(0, 16), sequences(2, 20, 16)
    y, doubled = mamba(u), mamba.scan(2 * u)[0]
    hook = mamba.in_proj.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    torch.testing.assert_close(mamba(u), doubled)
    hook.remove()
    seen: list[torch.nn.Module] = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    torch.testing.assert_close(mamba(u), y)
    hook.remove()
    assert mamba.in_proj in seen
    assert mamba.out_proj in seen
    mamba.out_proj = torch.nn.Sequential(mamba.out_proj, torch.nn.Tanh())
    torch.testing.assert_close(mamba(u), y.tanh())


def test_it_starts_where_it_says() -> None:
    torch.manual_seed(0)
    mamba = Mamba2(256, 8, head_dim=4, dt_min=0.01, dt_max=0.2, A_range=(2.0, 3.0))
    dt = torch.nn.functional.softplus(mamba.dt_bias.detach())
    assert 0.0099 < float(dt.min()) < 0.015
    assert 0.15 < float(dt.max()) < 0.2001
    assert math.log(2) <= float(mamba.A_log.detach().min()) <= float(mamba.A_log.detach().max()) <= math.log(3)
    assert all(getattr(p, "_no_weight_decay", False) for p in (mamba.A_log, mamba.D, mamba.dt_bias))


def test_autocast_changes_little() -> None:
    for projection, width in ((None, 12), (None, 16), (4, 12)):
        mamba = layer(0, width, projection=projection).float()
        assert_autocast_changes_little(mamba, sequences(2, 33, width, torch.float32))


@pytest.mark.parametrize(("projection", "width"), [(None, 12), (None, 16), (4, 12)])
def test_it_compiles_to_one_graph(projection: int | None, width: int) -> None:
    assert_one_graph(layer(0, width, projection=projection).float(), sequences(2, 33, width, torch.float32))


def test_a_norm_of_another_kind_is_used_as_it_is() -> None:
    mamba, u = layer(), sequences(2, 9, 12)
    before = mamba(u)
    mamba.norm.gate_first = False
    torch.testing.assert_close(mamba(u), mamba.scan(u)[0])
    assert not torch.allclose(mamba(u), before)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ShapeError, match="head_dim=8"):
        Mamba2(12, 4, head_dim=64)
    with pytest.raises(ShapeError, match="as many heads a group"):
        Mamba2(12, 4, head_dim=8, n_groups=2)
    with pytest.raises(ShapeError, match="from 1 to d_state=4"):
        Mamba2(12, 4, head_dim=8, projection=5)
    with pytest.raises(ShapeError, match="at least 1 of each"):
        Mamba2(12, 0)
