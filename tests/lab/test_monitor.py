"""What the run folder keeps of the spectra, and how far they are said to have moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gramian.compression.policies import Energy, Rank
from gramian.lab.monitor import Looks, SpectrumLog, drift
from gramian.layers.lru import LRU
from gramian.layers.reducible import Spectrum


def layers(seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({"a": LRU(4, 6, realization="real"), "b": LRU(4, 5, realization="complex")})


def spectra_of(model: nn.ModuleDict) -> dict[str, Spectrum]:
    return {name: layer.spectrum() for name, layer in model.items()}


def moved(model: nn.ModuleDict, by: float) -> nn.ModuleDict:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model


def test_log_keeps_every_look_in_full_precision_and_reads_it_back(tmp_path: Path) -> None:
    path, model = tmp_path / "spectra.safetensors", layers()
    log = SpectrumLog(path)
    first, second = spectra_of(model), spectra_of(moved(model, 0.1))
    log.add(5, first)
    log.add(10, second)
    stored = load_file(path)
    expected = {f"{n}/{step:08d}": s[n].values for step, s in ((5, first), (10, second)) for n in ("a", "b")}
    torch.testing.assert_close(stored, expected, rtol=0, atol=0)
    again = SpectrumLog(path)
    assert sorted(again.keys) == sorted(expected)
    again.add(15, first)
    assert len(load_file(path)) == 6


def test_log_forgets_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    path, spectra = tmp_path / "spectra.safetensors", spectra_of(layers())
    log = SpectrumLog(path)
    log.add(5, spectra)
    known = log.keys
    log.add(10, spectra)
    log = SpectrumLog(path)
    log.keep(known)
    assert sorted(log.keys) == sorted(load_file(path)) == sorted(known)


def test_log_that_forgets_nothing_writes_nothing(tmp_path: Path) -> None:
    log = SpectrumLog(tmp_path / "spectra.safetensors")
    log.keep([])
    assert not log.path.exists()


def test_a_layer_that_stands_still_has_not_drifted() -> None:
    spectra = spectra_of(layers())
    row = drift(spectra, spectra, Energy(0.05))
    for name in ("a", "b"):
        assert row[f"drift/past/{name}"] == pytest.approx(1, abs=1e-9)
        assert row[f"drift/future/{name}"] == pytest.approx(1, abs=1e-9)
        assert row[f"drift/moved/{name}"] == 0
        assert row[f"drift/bound/{name}"] < 1e-6


@pytest.mark.parametrize("by", [1e-3, 0.03, 0.3])
def test_values_move_no_further_than_the_difference_system_allows(by: float) -> None:
    model = layers()
    before = spectra_of(model)
    row = drift(before, spectra_of(moved(model, by)), Energy(0.05))
    for name in ("a", "b"):
        assert 0 < row[f"drift/moved/{name}"] <= row[f"drift/bound/{name}"]
        assert 0 <= row[f"drift/past/{name}"] < 1
        assert 0 <= row[f"drift/future/{name}"] < 1


def test_drift_grows_with_the_distance() -> None:
    rows = []
    for by in (1e-3, 0.1):
        model = layers()
        before = spectra_of(model)
        torch.manual_seed(1)
        rows.append(drift(before, spectra_of(moved(model, by)), Rank(3)))
    near, far = rows
    assert near["drift/past/a"] > far["drift/past/a"]
    assert near["drift/bound/a"] < far["drift/bound/a"]


def test_rank_in_the_journal_is_what_the_policy_would_keep_now() -> None:
    model = layers()
    before, policy = spectra_of(model), Energy(0.3, min_gain=0.0)
    after = spectra_of(moved(model, 0.3))
    row = drift(before, after, policy)
    assert {name: row[f"drift/rank/{name}"] for name in after} == policy(after)
    assert policy(after)["a"] < 6


def test_movement_is_relative_to_the_sum_and_free_of_the_scale_of_the_outputs() -> None:
    model = layers()
    before, after = spectra_of(model), spectra_of(moved(model, 0.1))

    def amplified(spectra: Mapping[str, Spectrum]) -> dict[str, Spectrum]:
        return {
            n: replace(s, values=100 * s.values, system=replace(s.system, C=100 * s.system.C, D=100 * s.system.D))  # type: ignore[union-attr, type-var]
            for n, s in spectra.items()
        }

    plain = drift(before, after, Rank(3))
    assert drift(amplified(before), amplified(after), Rank(3)) == pytest.approx(plain, rel=1e-6)


def test_layer_without_a_linear_map_gets_a_rank_and_no_drift() -> None:
    spectra = {"scores": Spectrum(torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64), "scores", 3)}
    assert drift(spectra, spectra, Energy(0.1)) == {"drift/rank/scores": 2}


def test_dead_layer_does_not_stop_the_run() -> None:
    model = layers()
    with torch.no_grad():
        model["a"].C_re.zero_()
        model["a"].C_im.zero_()
    spectra = spectra_of(model)
    row = drift(spectra, spectra, Energy(0.05))
    assert "drift/moved/a" not in row
    assert row["drift/moved/b"] == 0


def test_looks_that_are_cheap_stay_as_frequent_as_asked() -> None:
    looks, seen = Looks(every=10, share=0.01), []
    for step in range(1, 201):
        if looks.due(step, training_seconds=0.1 * step):
            assert looks.account(0.005, step, 0.1 * step) == ""
            seen.append(step)
    assert seen == list(range(10, 201, 10))


def test_looks_that_are_slow_become_rare_say_so_and_stay_within_their_share() -> None:
    looks, remarks = Looks(every=10, share=0.01), []
    for step in range(1, 20_001):
        training = 0.01 * step
        if looks.due(step, training):
            cost = 0.5 if step < 10_000 else 0.0004  # as after a cut
            remarks.append((step, looks.account(cost, step, training)))
    assert looks.seconds <= 0.01 * 0.01 * 20_000
    spoken = [(step, remark) for step, remark in remarks if remark]
    assert spoken[0][0] == 10
    assert "looking every 5120 steps from now on instead of every 10" in spoken[0][1]
    assert "looking every 10 steps from now on instead of every 5120" in spoken[1][1]
    assert len(spoken) == 2
    steps = [step for step, _ in remarks]
    assert steps[:3] == [10, 5120, 10240]
    assert steps[3:6] == [10250, 10260, 10270]


def test_looks_without_a_limit_never_change() -> None:
    looks = Looks(every=5, share=None)
    assert [looks.account(100.0, step, 1.0) for step in (5, 10)] == ["", ""]
    assert looks.due(15, 1.0)


def test_a_look_without_a_comparison_counts_but_changes_nothing() -> None:
    looks = Looks(every=10, share=0.01)
    assert looks.account(5.0, 10, 1.0, compared=False) == ""
    assert looks.interval == 10
    assert not looks.due(20, 2.0)
    assert looks.due(5010, 501.0)


def test_looks_go_on_after_a_resume_where_they_were() -> None:
    looks, resumed = Looks(10, 0.01), Looks(10, 0.01)
    looks.account(0.5, 10, 0.1)
    resumed.load_state_dict(looks.state_dict())
    assert (resumed.interval, resumed.seconds) == (looks.interval, 0.5)
    assert not Looks(None, 0.01).due(10, 1e9)
