"""Fill ``report.html`` from a run folder: the sentence, the key numbers, the figures and the tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gramian.lab.page import figures
from gramian.lab.page.run_folder import Row, RunFolder, finite, layer_rows
from gramian.lab.page.svg import power_of_ten

__all__ = ["write_report"]

_HERE = Path(__file__).parent
_NONE = "–"
_WORDS = {"cut": "cut", "skipped": "skipped", "rolled_back": "rolled back"}


@dataclass(frozen=True)
class Fact:
    """One key number: what it is, its value, and a small line below it."""

    label: str
    value: str
    note: str = ""


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run folder and return its path.

    The page is one file without scripts or references to anything outside it, the same bytes for the same run. It is
    written beside its final name and then moved there, so a reader never meets half a page. A run still in progress
    gives a page of what is there so far.

    Raises
    ------
    CheckpointError
        `run` is no run folder, or its config.yaml is damaged.
    """
    folder = RunFolder.read(Path(run))
    page = _render(folder)
    target = folder.path / "report.html"
    draft = folder.path / f".report.{os.getpid()}.html"
    try:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _render(run: RunFolder) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "duration": _duration}
    plots = {name: getattr(figures, name)(run) for name in ("sizes", "losses", "spectra", "drift", "speed")}
    return environment.get_template("report.html").render(
        run=run,
        css=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        sentence=_sentence(run),
        facts=_facts(run),
        plots=plots,
        rows=list(_table_rows(run)),
        step_times=_step_times(run),
        safe_svg=Markup,
    )


def _sentence(run: RunFolder) -> str:
    """What the run did so far, in one plain sentence."""
    before, after = _states(run)
    cuts, back = len(run.cuts), sum(event.get("kind") == "rolled_back" for event in run.events)
    if not cuts:
        parts = [f"{_number(after)} states, no cuts" if after is not None else "no cuts"]
    else:
        count = f"{cuts} cut{'s' if cuts > 1 else ''}" + (f" ({back} rolled back)" if back else "")
        parts = [f"{_number(before)} → {_number(after)} states in {count}"]
    word, value, step = _judged(run)
    steps = _dig(run.summary, "steps") or run.last_step
    if value is not None:
        parts.append(f"validation {word} {_number(value)}" + ("" if step in (None, steps) else f" (step {step})"))
    text = ", ".join(parts) + f" after {_number(steps)} steps."
    return text if run.summary else f"Not finished: {text}"


def _facts(run: RunFolder) -> list[Fact]:
    before, after = _states(run)
    word, valid, step = _judged(run)
    ratio, full, now = _ratio(run), _section(run, "full"), _section(run, "now")
    test = _dig(now, "test", word)
    cuts = sum(row["seconds"] for event in run.events for row in layer_rows(event) if finite(row.get("seconds")))
    in_cuts = _dig(run.summary, "cuts_seconds")
    in_cuts = cuts if in_cuts is None and run.events else in_cuts
    total = _dig(run.summary, "seconds")
    pending = "" if run.summary else "not finished"
    return [
        Fact("States", _arrow(before, after), _share(before, after)),
        Fact("Parameters", _arrow(full.get("parameters"), now.get("parameters")), pending),
        Fact(f"Step time{ratio[0]}", _number(ratio[1]), ratio[2] or pending),
        Fact(f"Validation {word}", _number(valid, 4), pending if step is None else f"at step {step}"),
        Fact(f"Test {word}", _number(test, 4), pending),
        Fact("Time in cuts", _duration(in_cuts), f"of {_duration(total)} in all" if total is not None else pending),
    ]


def _states(run: RunFolder) -> tuple[Any, Any]:
    """States of the full model and now, from the summary or, while there is none, from the metrics."""
    total = run.series("state/total").values
    first = int(total[0]) if len(total) else None
    last = int(total[-1]) if len(total) else None
    full, now = _section(run, "full").get("states"), _section(run, "now").get("states")
    return first if full is None else full, last if now is None else now


def _judged(run: RunFolder) -> tuple[str, Any, int | None]:
    """The metric the run is judged by and its validation value: the summary's, else the last written and its step."""
    word = figures.metric_key(run).removeprefix("eval/")
    final = _dig(_section(run, "now"), "valid", word)
    series = run.series(f"eval/{word}")
    if final is not None or not len(series):
        return word, final, None
    return word, float(series.values[-1]), int(series.steps[-1])


def _ratio(run: RunFolder) -> tuple[str, float | None, str]:
    """What the step time ratio divides (read off the two medians), its median, and its spread in words."""
    ratio = _section(run, "step_time_ratio")
    full, now = (_dig(_section(run, key), "step_seconds", "median") for key in ("full", "now"))
    value = _dig(ratio, "median")
    name = " ratio"
    if finite(value, full, now) and min(value, full, now) > 0:
        expected = math.log(now / full)
        name = ", now / full" if abs(math.log(value) - expected) <= abs(math.log(value) + expected) else ", full / now"
    if not finite(value):
        return name, None, ""
    spread = f"{_number(ratio.get('min'))} to {_number(ratio.get('max'))}, n = {_number(ratio.get('n'))}"
    return name, value, spread


def _step_times(run: RunFolder) -> list[tuple[str, Row]]:
    rows = [("full", _section(run, "full")), ("now", _section(run, "now"))]
    return [(name, row["step_seconds"]) for name, row in rows if isinstance(row.get("step_seconds"), dict)]


def _table_rows(run: RunFolder) -> Iterator[dict[str, Any]]:
    """Every layer of every event; an event that names no layer is one row of its own."""
    for event in run.events:
        kind = str(event.get("kind", ""))
        for row in layer_rows(event) or ({},):
            accepted = row.get("accepted", kind == "cut") and kind == "cut"
            word = _WORDS.get(kind, kind) if kind != "cut" or accepted else "left as it is"
            reason = row.get("reason") or event.get("reason") or ""
            yield {"step": event.get("step"), "kind": kind, "accepted": accepted, "word": word, **row, "reason": reason}


def _section(run: RunFolder, key: str) -> Row:
    found = (run.summary or {}).get(key)
    return found if isinstance(found, dict) else {}


def _dig(found: Any, *keys: str) -> Any:
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _arrow(before: object, after: object) -> str:
    return f"{_number(before)} → {_number(after)}" if before is not None or after is not None else _NONE


def _share(before: Any, after: Any) -> str:
    return f"{_number(after / before)} of the full model" if finite(before, after) and before else ""


def _number(value: object, digits: int = 3) -> str:
    """A number as people write it: thin spaces in long integers, 1.3 × 10⁻⁵, a dash for what was not recorded."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    if not isinstance(value, float):
        return _NONE if value is None else str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    if exponent:
        return f"{mantissa} × {power_of_ten(int(exponent))}".replace("-", "−")
    return mantissa.replace("-", "−")


def _duration(seconds: Any) -> str:
    """Seconds in the unit a reader would choose."""
    if not finite(seconds):
        return _NONE
    for unit, size, limit in (("ms", 1e-3, 0.5), ("s", 1.0, 180.0), ("min", 60.0, 7200.0)):
        if seconds < limit:
            return f"{_number(float(seconds / size))} {unit}"
    return f"{_number(float(seconds / 3600))} h"
