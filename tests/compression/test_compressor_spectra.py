"""The spectra behind a cut: computed once, those of the layers now, and without matrices afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping

import pytest
import torch
from small_models import make_net
from torch import Tensor

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Energy, Rank, Shrink
from gramian.compression.schedules import At, Every
from gramian.layers.reducible import Spectrum
from gramian.systems import gramians
from gramian.systems.balancing import Balancing


def test_spectra_are_those_of_the_layers_now() -> None:
    model = make_net()
    compressor = Compressor(model, policy=Rank(4), schedule=At([1]))
    before = compressor.spectra()
    compressor.step()
    assert {name: s.d_state for name, s in before.items()} == {"layers.0.lru": 12, "layers.1.lru": 8}
    assert {name: s.d_state for name, s in compressor.spectra().items()} == compressor.d_states
    for name, spectrum in before.items():
        torch.testing.assert_close(compressor.last_spectra[name].values, spectrum.values, rtol=1e-12, atol=0)


def test_no_matrix_behind_a_spectrum_outlives_the_cut() -> None:
    made: list[weakref.ref[Balancing]] = []

    class Watched(Energy):
        def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
            made.extend(weakref.ref(s.balancing) for s in spectra.values() if s.balancing is not None)
            return super().asked(spectra)

    compressor = Compressor(make_net(8, 8, 6), policy=Watched(0.2, min_gain=0.0), schedule=Every(1, until=2))
    for _ in range(2):
        assert compressor.step().changed
        gc.collect()
        assert len(made) >= 3
        assert all(basis() is None for basis in made)
        assert all(s.balancing is None for s in compressor.last_spectra.values())
    assert all(s.balancing is None for s in compressor.spectra().values())


def test_a_cut_balances_every_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    factors = gramians.takenaka_factors

    def counted(logs: Tensor, B: Tensor, pairs: bool) -> Tensor:
        batches.append(tuple(B.shape[:-2]))
        return factors(logs, B, pairs)

    monkeypatch.setattr(gramians, "takenaka_factors", counted)
    assert Compressor(make_net(8, 8, 6), policy=Shrink(0.5), schedule=At([1])).step().changed
    assert batches == [(2, 2), (2,)]  # two factors, of two layers of one shape together, and of the third
