"""Sequences come in batches of one length, with random steps of which no kind is passed over."""

from __future__ import annotations

import pytest
import torch

from gramian.layers.selective import samples as module
from gramian.layers.selective.samples import samples
from selective_zoo import make_mamba, sequences


def lengths(*sizes: int) -> list[torch.Tensor]:
    return [sequences(1, n, seed=n)[0] for n in sizes]


def test_every_sequence_is_seen_once_with_its_own_signals() -> None:
    layer = make_mamba()
    given = [x[i] for x in (sequences(9, 5), sequences(7, 8, seed=1)) for i in range(len(x))]
    seen = [row for s in samples(layer.signals, given) for row in s.signals.u]
    expected = [layer.signals(x[None]).u[0] for x in given]
    assert len(seen) == 16
    assert all(any(u.shape == e.shape and torch.allclose(u, e) for u in seen) for e in expected)


def test_few_steps_are_all_looked_at() -> None:
    found = list(samples(make_mamba().signals, lengths(5, 9, 5, 1)))
    assert sorted(s.signals.u.shape[1] for s in found) == [1, 5, 9]
    for s in found:
        assert s.steps.tolist() == list(range(s.signals.u.shape[1]))


def test_many_steps_are_drawn_at_random_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_STEPS", 100)
    given = list(sequences(20, 40))
    found = list(samples(make_mamba().signals, given))
    assert sum(len(s.steps) * len(s.signals.u) for s in found) == pytest.approx(100, abs=20)
    for s in found:
        assert (s.steps.diff() > 0).all()
    assert len({tuple(s.steps.tolist()) for s in found}) > 1
    seen = [t for seed in range(40) for s in samples(make_mamba().signals, given, seed=seed) for t in s.steps.tolist()]
    counts = torch.bincount(torch.tensor(seen), minlength=40).double()
    assert (counts - counts.mean()).abs().max() < 5 * counts.mean().sqrt()  # no step is preferred


def test_the_seed_alone_decides_what_is_drawn() -> None:
    given, before = list(sequences(6, 30)), torch.get_rng_state()
    one, two, other = (
        [s.steps for s in samples(make_mamba().signals, given * 20, seed=seed, sketch=True)] for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_are_those_of_the_same_steps_of_the_same_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_STEPS", 30)
    layer = make_mamba()
    given = [*sequences(5, 12), *sequences(4, 7, seed=1)]
    for s in samples(layer.signals, given, [3 * x for x in given]):
        assert s.gradient is not None
        rows = s.gradient.unflatten(0, (len(s.signals.u), -1))
        for u, gradient in zip(s.signals.u, rows, strict=True):
            (source,) = [x for x in given if len(x) == len(u) and torch.allclose(layer.signals(x[None]).u[0], u)]
            torch.testing.assert_close(gradient, 3 * source[s.steps].float())


def test_nothing_and_empty_sequences_give_nothing() -> None:
    layer = make_mamba()
    assert list(samples(layer.signals, [])) == []
    assert [len(s.signals.u) for s in samples(layer.signals, [sequences(1, 3)[0][:0], sequences(1, 3)[0]])] == [1]
    assert list(samples(layer.signals, [sequences(1, 3)[0][:0]])) == []


def test_wide_outputs_are_sketched_only_when_asked() -> None:
    layer, given = make_mamba(d_model=40), list(sequences(2, 5, 40))
    assert next(samples(layer.signals, given)).signals.readout.shape[0] == 40
    assert next(samples(layer.signals, given, sketch=True)).signals.readout.shape[0] == module._SKETCH == 8
