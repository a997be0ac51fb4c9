"""Every policy does what its definition says, and the modifiers limit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.compression.policies import Budget, Energy, ErrorBound, Policy, Rank, Shrink
from gramian.errors import GramianError
from gramian.layers.lru import LRU
from gramian.layers.reducible import Spectrum
from gramian.systems.norms import hinf_norm

VALUES = st.lists(st.floats(0, 1e3), min_size=1, max_size=12)


def spectrum_of(values: list[float], per_state: int = 1) -> Spectrum:
    ordered = torch.tensor(values, dtype=torch.float64).sort(descending=True)[0]
    return Spectrum(ordered, "made up", len(values) // per_state)


def geometric(n: int, ratio: float = 0.5) -> Spectrum:
    return spectrum_of([ratio**k for k in range(n)])


def only(policy: Policy, spectrum: Spectrum) -> int:
    (rank,) = policy.asked({"layer": spectrum}).values()
    return rank


@given(values=VALUES, tau=st.floats(0, 0.999))
def test_energy_keeps_the_smallest_rank_that_holds_the_rest(values: list[float], tau: float) -> None:
    spectrum = spectrum_of(values)
    total = float(spectrum.values.sum())
    rank = only(Energy(tau), spectrum)
    assert 1 <= rank <= len(values)
    assert float(spectrum.values[:rank].sum()) >= (1 - tau) * total * (1 - 1e-11)
    assert rank == 1 or float(spectrum.values[: rank - 1].sum()) < (1 - tau) * total


@given(values=VALUES, tau=st.floats(0, 0.999))
def test_energy_keeps_more_when_less_may_be_discarded(values: list[float], tau: float) -> None:
    assert only(Energy(tau / 2), spectrum_of(values)) >= only(Energy(tau), spectrum_of(values))


def test_energy_counts_states_of_the_layer_and_not_values() -> None:
    pairs = spectrum_of([1.0, 1.0, 1e-3, 1e-3, 1e-9, 1e-9], per_state=2)
    assert only(Energy(0.5), pairs) == 1
    assert only(Energy(0.4), pairs) == 1
    assert only(Energy(1e-3 / 2), pairs) == 2
    assert only(Energy(0.0), pairs) == 3


@pytest.mark.parametrize("policy", [Energy(0.0), Energy(1e-300), Energy(1e-17), ErrorBound(1e-300)])
def test_unreachable_tolerance_does_not_return_rank_one(policy: Policy) -> None:
    torch.manual_seed(0)
    lru = LRU(3, 9, r_min=0.5, r_max=0.9)
    assert policy({"lru": lru.spectrum()}) == {"lru": 9}


@pytest.mark.parametrize("eps", [1.5, 0.3, 0.05, 1e-3])
def test_error_bound_keeps_the_smallest_rank_whose_bound_is_low_enough(eps: float) -> None:
    torch.manual_seed(0)
    spectrum = LRU(3, 9, r_min=0.5, r_max=0.9).spectrum()
    tails = [2 * float(spectrum.values[2 * rank :].sum()) for rank in range(10)]
    allowed = eps * float(hinf_norm(spectrum.system, rtol=1e-3))
    rank = only(ErrorBound(eps), spectrum)
    assert tails[rank] <= allowed * (1 + 1e-9)
    assert rank == 1 or tails[rank - 1] > allowed


def test_error_bound_needs_a_linear_system() -> None:
    with pytest.raises(GramianError, match=r"'layer', whose spectrum is: made up(.|\n)*Energy\(tau"):
        ErrorBound(0.1).asked({"layer": geometric(4)})


@pytest.mark.parametrize(("n", "rank"), [(3, 3), (8, 8), (20, 8)])
def test_rank_is_that_rank_or_all_there_is(n: int, rank: int) -> None:
    assert Rank(n).asked({"layer": geometric(8)}) == {"layer": rank}


@pytest.mark.parametrize(("by", "d_state", "rank"), [(0.25, 8, 6), (0.5, 10, 5), (0.9, 4, 1), (0.999, 100, 1)])
def test_shrink_removes_that_fraction_and_leaves_one(by: float, d_state: int, rank: int) -> None:
    assert Shrink(by).asked({"layer": geometric(d_state)}) == {"layer": rank}


@given(layers=st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8), min_size=1, max_size=4), data=st.data())
def test_budget_shares_the_total_by_one_tolerance_and_wastes_none(layers: list[list[float]], data) -> None:
    spectra = {str(i): spectrum_of(values) for i, values in enumerate(layers)}
    total = data.draw(st.integers(len(layers), sum(map(len, layers)) + 3))
    ranks = Budget(total).asked(spectra)
    assert sum(ranks.values()) <= total
    # One tolerance: what every layer discards is less than what any layer would have to discard to keep less.
    lost = {n: s.discarded(ranks[n]) for n, s in spectra.items()}
    next_lost = [s.discarded(ranks[n] - 1) for n, s in spectra.items() if ranks[n] > 1]
    assert max(lost.values()) <= min(next_lost, default=1.0) + 1e-9
    # Maximal: no other common tolerance fills the budget better.
    everywhere = {s.discarded(rank) for s in spectra.values() for rank in range(1, len(s.values) + 1)}
    sums = [sum(Energy(min(tau * (1 + 1e-9), 1 - 1e-12)).asked(spectra).values()) for tau in everywhere]
    assert sum(ranks.values()) == max(s for s in [*sums, len(layers)] if s <= total)


def test_budget_gives_more_states_to_the_layer_that_needs_them() -> None:
    flat, steep = spectrum_of([1.0] * 16), geometric(16)
    ranks = Budget(18).asked({"flat": flat, "steep": steep})
    assert sum(ranks.values()) == 18
    assert ranks["flat"] > ranks["steep"]


def test_budget_that_is_large_enough_keeps_everything() -> None:
    assert Budget(100).asked({"a": spectrum_of([1.0] * 5), "b": spectrum_of([2.0] * 7)}) == {"a": 5, "b": 7}


def test_budget_smaller_than_the_number_of_layers_is_refused() -> None:
    with pytest.raises(GramianError, match=r"Budget\(total=2\) was given for 3 layers"):
        Budget(2).asked({name: geometric(4) for name in "abc"})


@given(layers=st.lists(st.lists(st.floats(0, 1e3), min_size=1, max_size=8), min_size=1, max_size=4), data=st.data())
def test_budget_keeps_the_largest_of_all_values_where_they_are_in_one_unit(layers: list[list[float]], data) -> None:
    spectra = {str(i): replace(spectrum_of(values), comparable=True) for i, values in enumerate(layers)}
    total = data.draw(st.integers(len(layers), sum(map(len, layers)) + 3))
    ranks = Budget(total).asked(spectra)
    assert sum(ranks.values()) == min(total, sum(map(len, layers)))
    assert all(1 <= ranks[name] <= s.d_state for name, s in spectra.items())
    left = [float(v) for name, s in spectra.items() for v in s.values[ranks[name] :]]
    chosen = [float(v) for name, s in spectra.items() for v in s.values[1 : ranks[name]]]
    assert max(left, default=0.0) <= min(chosen, default=1e3)  # but for the one that every layer keeps


def test_budget_compares_values_only_where_all_layers_have_one_unit() -> None:
    large, small = spectrum_of([9.0, 8.0, 7.0, 6.0]), spectrum_of([0.9, 0.8, 0.7, 0.6])
    one_unit = {name: replace(s, comparable=True) for name, s in (("large", large), ("small", small))}
    assert Budget(5).asked(one_unit) == {"large": 4, "small": 1}
    for others in ({"large": large, "small": small}, {**one_unit, "small": small}):
        assert Budget(4).asked(others) == {"large": 2, "small": 2}


SPECTRA: Mapping[str, Spectrum] = {
    "encoder.0": geometric(16),
    "encoder.1": spectrum_of([1.0] * 16),
    "decoder.0": geometric(16, 0.1),
}


def test_at_least_is_a_floor_for_every_layer() -> None:
    ranks = Energy(0.01).at_least(5)(SPECTRA)
    plain = Energy(0.01)(SPECTRA)
    assert ranks == {name: max(5, rank) for name, rank in plain.items()}
    assert min(plain.values()) < 5


def test_at_least_more_than_a_layer_has_leaves_it_as_it_is() -> None:
    assert Rank(2).at_least(99)(SPECTRA) == dict.fromkeys(SPECTRA, 16)


@pytest.mark.parametrize(
    ("patterns", "alone"),
    [(("encoder.*",), {"encoder.0", "encoder.1"}), (("*.0", "encoder.1"), set(SPECTRA)), (("encoder",), set())],
)
def test_except_for_leaves_layers_alone_whose_names_match(patterns: tuple[str, ...], alone: set[str]) -> None:
    targets = Rank(4).except_for(*patterns).targets(SPECTRA)
    for name, target in targets.items():
        assert target == ((16, 16) if name in alone else (4, 4))


def test_except_for_adds_to_what_was_excluded_before() -> None:
    policy = Rank(4).except_for("encoder.0").except_for("decoder.*")
    assert policy(SPECTRA) == {"encoder.0": 16, "encoder.1": 4, "decoder.0": 16}


def test_a_layer_that_is_left_alone_takes_nothing_from_the_budget() -> None:
    ranks = Budget(10).except_for("encoder.1")(SPECTRA)
    assert ranks["encoder.1"] == 16
    assert ranks["encoder.0"] + ranks["decoder.0"] <= 10


def test_uniform_gives_all_layers_what_the_neediest_asks_for() -> None:
    policy = Energy(0.3)
    assert policy.uniform()(SPECTRA) == dict.fromkeys(SPECTRA, max(policy(SPECTRA).values()))
    assert len(set(policy(SPECTRA).values())) > 1


@pytest.mark.parametrize("rank", range(1, 17))
def test_round_to_rounds_up_and_reports_what_was_asked(rank: int) -> None:
    spectra = {"layer": geometric(64)}
    eights = Rank(rank, round_to=8).targets(spectra)["layer"]
    assert (eights.asked, eights.rank % 8, 0 <= eights.rank - rank < 8) == (rank, 0, True)
    power = Rank(rank, round_to="pow2").targets(spectra)["layer"].rank
    assert power.bit_count() == 1
    assert power / 2 < rank <= power


def test_rounding_up_beyond_the_layer_leaves_it_as_it_is() -> None:
    assert Rank(9, round_to=16)({"layer": geometric(12)}) == {"layer": 12}


@pytest.mark.parametrize(("min_gain", "rank", "kept"), [(0.05, 96, 100), (0.05, 95, 95), (0.3, 71, 100), (0, 99, 99)])
def test_min_gain_is_the_least_fraction_that_is_worth_a_cut(min_gain: float, rank: int, kept: int) -> None:
    assert Rank(rank, min_gain=min_gain)({"layer": geometric(100)}) == {"layer": kept}


def test_modifiers_return_new_policies_of_the_same_kind() -> None:
    policy = Energy(0.04)
    modified = policy.at_least(8).except_for("encoder.*").uniform()
    assert policy == Energy(0.04)
    assert modified == Energy(0.04, minimum=8, excluded=("encoder.*",), same=True)


@pytest.mark.parametrize(
    ("policy", "milder"),
    [
        (Energy(0.04, minimum=3), Energy(0.02, minimum=3)),
        (ErrorBound(0.1, round_to=8), ErrorBound(0.05, round_to=8)),
        (Shrink(0.5, same=True), Shrink(0.25, same=True)),
        (Rank(3), None),
        (Budget(30), None),
    ],
)
def test_cautious_cuts_half_as_much_or_not_at_all(policy: Policy, milder: Policy | None) -> None:
    assert policy.cautious() == milder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Energy(1.0), r"Energy\(tau=1.0\)"),
        (lambda: Energy(-0.1), "0 <= tau < 1"),
        (lambda: Energy(float("nan")), "0 <= tau < 1"),
        (lambda: ErrorBound(0.0), "eps > 0"),
        (lambda: Rank(0), "n >= 1"),
        (lambda: Shrink(0.0), "0 < by < 1"),
        (lambda: Shrink(1.0), "0 < by < 1"),
        (lambda: Budget(0), "total >= 1"),
        (lambda: Energy(0.1).at_least(0), "at least 1 state"),
        (lambda: Energy(0.1, min_gain=1.0), "0 <= min_gain < 1"),
        (lambda: Energy(0.1, round_to=0), "a whole number >= 1"),
        (lambda: Energy(0.1, round_to="pow3"), "'pow2' or a whole number"),
    ],
)
def test_arguments_that_cannot_be_are_refused_with_what_is_needed(make, message: str) -> None:
    with pytest.raises(GramianError, match=message):
        make()


def test_a_policy_for_no_layers_asks_for_nothing() -> None:
    assert Energy(0.1)({}) == {}
    assert Budget(4)({}) == {}
