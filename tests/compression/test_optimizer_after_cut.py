"""Optimizers, schedulers and scalers go on after a cut as before it."""

from __future__ import annotations

import copy

import pytest
import torch
from cut_runs import KNOWN, VARIANTS, Make, cut, trained
from small_models import SmallNet, everything, identical, make_net, train_step
from torch.optim import Adam, AdamW, Optimizer

from gramian.compression.optimizer_state import Carry


@pytest.mark.parametrize("name", [*KNOWN, *VARIANTS])
@pytest.mark.parametrize("carry", ["transport", "reset"])
def test_training_goes_on_after_a_cut(name: str, carry: Carry) -> None:
    make = KNOWN[name][0] if name in KNOWN else VARIANTS[name]
    model, optimizer = trained(make, 2)
    for _ in range(2):
        cut(model, optimizer, carry)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        for _ in range(2):
            assert torch.tensor(train_step(model, optimizer)).isfinite()
        moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
        assert {n for n in moved if ".lru." in n} == {n for n in before if ".lru." in n}
        assert all(p.isfinite().all() for p in model.parameters())


def test_parameter_groups_and_schedulers_are_left_as_they_are() -> None:
    model = make_net()
    slow = [p for name, p in model.named_parameters() if ".lru." in name]
    fast = [p for name, p in model.named_parameters() if ".lru." not in name]
    optimizer = AdamW([{"params": slow, "lr": 1e-4, "weight_decay": 0.0}, {"params": fast}], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    train_step(model, optimizer)
    scheduler.step()
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    schedule, members = scheduler.state_dict(), [[id(p) for p in g["params"]] for g in optimizer.param_groups]
    cut(model, optimizer)
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == members
    assert scheduler.state_dict() == schedule
    rates = [g["lr"] for g in optimizer.param_groups]
    train_step(model, optimizer)
    scheduler.step()
    assert all(g["lr"] < rate for g, rate in zip(optimizer.param_groups, rates, strict=True))


@pytest.mark.parametrize("enabled", [False, True])
def test_a_gradient_scaler_does_not_notice(enabled: bool) -> None:
    model = make_net()
    optimizer = Adam(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=64.0, growth_interval=2)
    for step in range(6):
        u = torch.randn(5, 16, 2)
        scaler.scale(model(u).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        before = scaler.state_dict()
        if step % 2:
            cut(model, optimizer)
        assert scaler.state_dict() == before
    assert scaler.get_scale() == (512.0 if enabled else 1.0)
    assert all(p.isfinite().all() for p in model.parameters())


def test_an_optimizer_that_has_not_stepped_yet_gets_no_state() -> None:
    model = make_net()
    optimizer = Adam(model.parameters(), 1e-3)
    cut(model, optimizer)
    assert not optimizer.state
    train_step(model, optimizer)


def half_frozen(make: Make) -> tuple[SmallNet, Optimizer]:
    """A layer of which B_im is not trained, after three steps and a cut."""
    model = make_net()
    model.layers[0].lru.B_im.requires_grad_(False)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for _ in range(3):
        train_step(model, optimizer)
    cut(model, optimizer)
    return model, optimizer


def test_a_moment_of_which_a_part_was_never_trained_starts_anew() -> None:
    model, optimizer = half_frozen(KNOWN["Adam"][0])
    lru = model.layers[0].lru
    assert lru.B_im not in optimizer.state
    assert lru.B_re not in optimizer.state
    assert optimizer.state[lru.C_re]["exp_avg"].any()
    train_step(model, optimizer)
    assert float(optimizer.state[lru.B_re]["step"]) == 1


@pytest.mark.parametrize("name", ["Adam fused", "SGD fused"])
def test_fused_optimizers_go_on_where_a_part_was_never_trained(name: str) -> None:
    model, optimizer = half_frozen(VARIANTS[name])
    before = model.layers[0].lru.B_re.detach().clone()
    train_step(model, optimizer)
    assert not torch.equal(model.layers[0].lru.B_re, before)


def test_the_state_of_a_cut_model_can_be_saved_and_loaded() -> None:
    model, optimizer = trained(KNOWN["AdamW"][0])
    cut(model, optimizer)
    twin = make_net()
    twin_optimizer = AdamW(twin.parameters(), 1e-3)
    cut(twin, None)
    twin.load_state_dict(model.state_dict())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(3)
        u = torch.randn(5, 16, 2)
        m.eval()(u).square().mean().backward()
        o.step()
    assert identical(everything(model, optimizer), everything(twin, twin_optimizer))
