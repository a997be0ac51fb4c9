"""Spectra of many layers in one batch, and proposals that use what a spectrum was computed from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lru_examples import BOTH, Realization, make_lru

from gramian.errors import ShapeError
from gramian.layers import spectra, truncation
from gramian.layers.lru import LRU
from gramian.layers.reducible import Spectrum
from gramian.layers.reduction import Reduction
from gramian.layers.spectra import spectra_of
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import Choice, Keep, balanced, modal, random


def layers() -> dict[str, LRU]:
    real, other = {"realization": "real"}, {"realization": "complex"}
    sizes = {"a": (3, 8, real), "b": (3, 8, other), "c": (3, 8, real), "d": (3, 9, real), "e": (4, 8, real)}
    return {n: make_lru(h, s, seed=i, **kind) for i, (n, (h, s, kind)) in enumerate(sizes.items())}


def assert_alike(one: Spectrum, two: Spectrum) -> None:
    torch.testing.assert_close(one.values, two.values, rtol=1e-11, atol=1e-14)
    assert (one.measure, one.d_state) == (two.measure, two.d_state)
    assert one.system is not None
    assert two.system is not None
    assert one.system.equals(two.system)


@pytest.mark.parametrize("for_proposals", [False, True])
def test_batched_spectra_are_those_of_the_layers_one_by_one(for_proposals: bool) -> None:
    model = layers()
    together = spectra_of(model, for_proposals=for_proposals)
    assert list(together) == list(model)
    for name, layer in model.items():
        assert_alike(together[name], layer.spectrum())
        assert (together[name].balancing is not None) == for_proposals


def test_large_layers_have_the_same_spectra_in_a_batch() -> None:
    model = {str(seed): make_lru(4, 70, seed=seed) for seed in range(2)}
    for name, spectrum in spectra_of(model).items():
        total = float(spectrum.values.sum())
        torch.testing.assert_close(spectrum.values, model[name].spectrum().values, rtol=1e-8, atol=1e-9 * total)


def test_matrices_are_kept_only_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    monkeypatch.setattr(spectra, "_MOST_BYTES", 3 * 4 * 8 * 16**2)  # for three real layers of 8 states
    kept = spectra_of(model, for_proposals=True)
    assert [name for name, s in kept.items() if s.balancing is not None] == ["a", "b", "c"]
    for name, layer in model.items():
        assert_alike(kept[name], layer.spectrum())
        assert_same(layer.propose(4, spectrum=kept[name]), layer.propose(4))


def assert_same(one: Reduction, two: Reduction) -> None:
    assert (one.after, one.reason) == (two.after, two.reason)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, two.tensors[name], rtol=1e-5, atol=1e-6)
    for name, moments in one.moments.items():
        torch.testing.assert_close(moments.first, two.moments[name].first, rtol=1e-6, atol=1e-8)
    assert one.measurement is not None
    assert two.measurement is not None
    for key, value in vars(one.measurement).items():
        other = getattr(two.measurement, key)
        assert value == (None if other is None else pytest.approx(other, rel=1e-5)), key


@BOTH
@pytest.mark.parametrize("choose", [balanced, Keep("smallest"), Keep("random", 3), modal, random])
def test_a_proposal_with_a_spectrum_is_the_proposal_without(realization: Realization, choose: Choice) -> None:
    layer = make_lru(realization=realization, fades_to=1e-2)
    without = layer.propose(4, choose)
    for spectrum in (layer.spectrum(), layer.spectrum().light()):
        assert_same(layer.propose(4, choose, spectrum=spectrum), without)


def test_large_matrices_are_given_up_and_a_second_proposal_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_lru(3, 8)
    for most, kept in ((4 * 8 * 16**2, True), (4 * 8 * 16**2 - 1, False)):
        monkeypatch.setattr(truncation, "_MOST_BYTES", most)
        spectrum = layer.spectrum()
        first = layer.propose(4, spectrum=spectrum)
        assert (spectrum.balancing is not None) == kept
        assert_same(layer.propose(4, spectrum=spectrum), first)


def test_a_spectrum_of_other_parameters_is_refused() -> None:
    layer = make_lru()
    spectrum = layer.spectrum()
    assert layer.propose(4, spectrum=spectrum).accepted
    with torch.no_grad():
        layer.B_re[2, 1] += 1e-6
    with pytest.raises(ShapeError, match=r"not that of 'the LRU layer' as it is now(.|\n)*Call spectrum\(\) again"):
        layer.propose(4, spectrum=spectrum)
    for other in (make_lru(seed=1).spectrum(), make_lru(realization="complex").spectrum(), make_lru(4).spectrum()):
        with pytest.raises(ShapeError, match="as it is now"):
            make_lru().propose(4, spectrum=other)
    with pytest.raises(ShapeError, match="as it is now"):
        make_lru().propose(4, spectrum=replace(make_lru().spectrum(), system=None))


def test_a_light_spectrum_has_no_matrices_and_neither_has_a_stored_one() -> None:
    spectrum = make_lru().spectrum()
    assert spectrum.balancing is not None
    light = spectrum.light()
    assert light.balancing is None
    assert torch.equal(light.values, spectrum.values)
    assert Spectrum.from_state_dict(spectrum.state_dict()).balancing is None


def test_the_norm_of_a_spectrum_is_that_of_the_layer() -> None:
    layer = make_lru()
    assert layer.spectrum().norm == pytest.approx(float(hinf_norm(layer.linear_system())), rel=2e-3)
    scores = Spectrum(torch.ones(2, dtype=torch.float64), "scores", 2)
    assert scores.norm != scores.norm
