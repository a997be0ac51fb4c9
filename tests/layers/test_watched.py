"""Modules that somebody wants to see called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules import module as modules

from gramian.layers.watched import is_watched


def test_a_plain_module_is_not_watched() -> None:
    assert not is_watched(nn.Linear(2, 3))
    assert not is_watched(nn.Linear(2, 3, bias=False))


@pytest.mark.parametrize(
    "hook",
    [
        lambda m: m.register_forward_hook(lambda *_: None),
        lambda m: m.register_forward_pre_hook(lambda *_: None),
        lambda m: m.register_full_backward_hook(lambda *_: None),
        lambda m: m.register_full_backward_pre_hook(lambda *_: None),
        lambda m: modules.register_module_forward_hook(lambda *_: None),
        lambda m: modules.register_module_forward_pre_hook(lambda *_: None),
        lambda m: modules.register_module_full_backward_hook(lambda *_: None),
        lambda m: modules.register_module_full_backward_pre_hook(lambda *_: None),
    ],
)
def test_hooks_watch_until_they_are_removed(hook: Callable[..., torch.utils.hooks.RemovableHandle]) -> None:
    linear = nn.Linear(2, 3)
    handle = hook(linear)
    assert is_watched(linear)
    handle.remove()
    assert not is_watched(linear)


def test_another_forward_and_parameters_of_another_kind_watch() -> None:
    linear = nn.Linear(2, 3)
    linear.forward = linear.forward  # type: ignore[method-assign]
    assert is_watched(linear)
    linear = nn.Linear(2, 3)
    linear.compile(backend="eager")
    assert is_watched(linear)
    linear = nn.Linear(2, 3)
    kind = type("Kind", (nn.Parameter,), {})
    linear.weight = kind(torch.zeros(3, 2))
    assert is_watched(linear)
