"""Events as records: through JSON and back, and as the line a user reads."""

from __future__ import annotations

import json
import re

import pytest
import torch
from small_models import make_net

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Rank, Shrink
from gramian.compression.records import Event, LayerChange
from gramian.compression.schedules import At
from gramian.layers.reduction import Measurement, OutputError, Reduction

MEASUREMENT = Measurement(
    norm=8.0,
    bound=0.4,
    measured=0.2,
    h2_norm=5.0,
    h2_error=0.05,
    discarded=0.1,
    order=120,
    real_poles=2,
    condition=3.5,
    max_pole=0.99,
)


OUTPUT = OutputError(calibration=0.0123, held_out=0.0345, discarded=0.1, tokens=512)


def reduction(measurement: Measurement | OutputError | None = MEASUREMENT, reason: str = "") -> Reduction:
    after = 256 if reason else 61
    return Reduction(256, after, 64, {}, {}, measurement, reason, seconds=0.123)


EVENTS = {
    "none": Event(7, "none"),
    "cut": Event(9, "cut", (LayerChange.from_reduction("layers.0.lru", 60, reduction(), 1.0),), "", 0.5),
    "calibrated": Event(9, "cut", (LayerChange.from_reduction("layers.0", 60, reduction(OUTPUT), 0.5),), "", 0.5),
    "refused": Event(9, "skipped", (LayerChange.from_reduction("a", 9, reduction(None, "why"), 1.0),), "all", 0.1),
    "rolled back": Event(12, "rolled_back", (), "the metric fell", 0.2, resume_at=9),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_goes_through_json_and_back(name: str) -> None:
    event = EVENTS[name]
    assert Event.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False))) == event


def test_a_real_cut_goes_through_json_and_back() -> None:
    event = Compressor(make_net(), policy=Shrink(0.5), schedule=At([1])).step()
    assert event.changed
    assert Event.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False))) == event


def test_keys_that_a_log_adds_do_not_hurt() -> None:
    event = EVENTS["cut"]
    assert Event.from_dict({**event.to_dict(), "seed": 8, "time": "noon"}) == event


@pytest.mark.parametrize(
    ("kind", "changed"), [("none", False), ("cut", True), ("skipped", False), ("rolled_back", True)]
)
def test_changed_says_whether_the_model_is_different(kind: str, changed: bool) -> None:
    assert Event(1, kind).changed == changed


def test_errors_are_relative_to_the_norms_before() -> None:
    change = LayerChange.from_reduction("layers.0.lru", 60, reduction(), 1.0)
    m = MEASUREMENT
    assert (change.bound, change.measured, change.h2_error) == (m.bound / m.norm, m.measured / m.norm, 0.05 / 5.0)
    assert (change.norm, change.order, change.real_poles) == (m.norm, m.order, m.real_poles)
    assert (change.condition, change.max_pole) == (m.condition, m.max_pole)
    assert (change.before, change.after, change.asked, change.accepted) == (256, 61, 60, True)
    silent = Measurement(**{**vars(m), "norm": 0.0, "h2_norm": 0.0, "bound": 0.0, "measured": 0.0, "h2_error": 0.0})
    nothing = LayerChange.from_reduction("layers.0.lru", 60, reduction(silent), 1.0)
    assert (nothing.bound, nothing.measured, nothing.h2_error) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("kept_before", [1.0, 0.7])
def test_total_tolerance_is_what_all_cuts_together_gave_up(kept_before: float) -> None:
    change = LayerChange.from_reduction("layers.0.lru", 60, reduction(), kept_before)
    assert change.tau == 0.1
    assert change.tau_total == pytest.approx(1 - kept_before * 0.9)


def test_a_cut_is_a_line_for_each_layer() -> None:
    line = "layers.0.lru  256 -> 61   bound 0.05   measured 0.025   0.12 s"
    assert str(EVENTS["cut"]) == line
    two = Event(9, "cut", EVENTS["cut"].layers * 2)
    assert str(two) == f"{line}\n{line}"


def test_a_real_cut_prints_in_that_form() -> None:
    event = Compressor(make_net(), policy=Rank(4), schedule=At([1])).step()
    number = r"[0-9.e+-]+"
    for line, (name, before) in zip(str(event).splitlines(), (("layers.0.lru", 12), ("layers.1.lru", 8)), strict=True):
        form = rf"{re.escape(name)}  {before} -> 4   bound {number}   measured {number}   \d+\.\d\d s"
        assert re.fullmatch(form, line)


def test_a_change_without_a_bound_says_none() -> None:
    unbounded = Measurement(**{**vars(MEASUREMENT), "bound": None, "discarded": None})
    change = LayerChange.from_reduction("s", 60, reduction(unbounded), 1.0)
    assert str(change) == "s  256 -> 61   bound none   measured 0.025   0.12 s"
    assert (change.bound, change.tau, change.tau_total) == (None, None, None)


def test_a_layer_that_is_not_time_invariant_has_output_errors_and_no_norms() -> None:
    (change,) = EVENTS["calibrated"].layers
    assert (change.output_error, change.held_out_error) == (0.0123, 0.0345)
    assert (change.before, change.after, change.asked, change.accepted) == (256, 61, 60, True)
    assert (change.tau, change.tau_total) == (0.1, pytest.approx(1 - 0.5 * 0.9))
    nothing = ("norm", "bound", "measured", "h2_error", "order", "real_poles", "condition", "max_pole")
    assert all(getattr(change, name) is None for name in nothing)


def test_output_errors_are_printed_with_the_words_that_promise_nothing() -> None:
    line = "layers.0  256 -> 61   output error 0.012, held out 0.035, no a-priori guarantee   0.12 s"
    assert str(EVENTS["calibrated"]) == line
    alone = OutputError(calibration=0.0123, held_out=None, discarded=0.1, tokens=3)
    change = LayerChange.from_reduction("layers.0", 60, reduction(alone), 1.0)
    assert str(change) == "layers.0  256 -> 61   output error 0.012, no a-priori guarantee   0.12 s"
    assert change.held_out_error is None


@pytest.mark.parametrize("measurement", [MEASUREMENT, OUTPUT, None], ids=["linear", "calibrated", "nothing"])
def test_what_a_reduction_costs_comes_back_as_what_it_was(measurement: Measurement | OutputError | None) -> None:
    stored = json.loads(json.dumps(reduction(measurement).state_dict()))
    assert Reduction.from_state_dict(stored).measurement == measurement


def test_what_was_not_done_is_printed_with_its_reason() -> None:
    assert str(EVENTS["refused"]) == "skipped: all\na  stays at 256: why"
    assert str(EVENTS["rolled back"]) == "rolled back: the metric fell"


def test_a_record_holds_no_tensors() -> None:
    event = Compressor(make_net(), policy=Shrink(0.5), schedule=At([1])).step()
    plain = (int, float, str, bool, type(None))
    for record in (event.to_dict(), *event.to_dict()["layers"]):
        for key, value in record.items():
            assert key == "layers" or isinstance(value, plain), key
            assert not isinstance(value, torch.Tensor)
