"""The run page: complete, self-contained, safe to open, and honest about what is not there."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from example_run import CONFIG, CUT_STEPS, KEPT, write_rows, write_run

from gramian.errors import CheckpointError
from gramian.lab.page import write_report
from gramian.lab.page.figures import _border
from gramian.lab.page.render import _duration, _number, _ratio
from gramian.lab.page.run_folder import RunFolder


def page_of(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees: no style, no tags, single spaces."""
    bare = re.sub(r"<style>.*?</style>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "smnist-8")


class _Elements(HTMLParser):
    """Start tags with attributes, and whether every element that must be closed is."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_refers_to_nothing_outside_itself(run: Path) -> None:
    page = page_of(run)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<img|<iframe", page)
    for tag, attributes in _Elements(page).tags:
        assert not {"src", "srcset", "action", "data"} & attributes.keys()
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#") or (tag, attributes[name]) == ("link", "data:,")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_page_is_well_formed_and_accessible(run: Path) -> None:
    elements = _Elements(page_of(run))
    assert elements.open == []
    tags = elements.tags
    assert ("html", {"lang": "en"}) in tags
    assert any(a.get("name") == "viewport" for _, a in tags)
    assert all(a.get("aria-label") and a.get("role") == "img" for tag, a in tags if tag == "svg")
    counts = {name: sum(tag == name for tag, _ in tags) for name in ("svg", "title", "table", "caption")}
    assert counts["title"] == counts["svg"] + 1
    assert counts["svg"] == 7
    assert counts["table"] == counts["caption"] == 3


def test_ids_are_unique_and_every_reference_is_answered(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "deep", tuple(f"blocks.{i}.lru" for i in range(12))))
    ids = re.findall(r'\bid="([^"]*)"', page)
    referred = re.findall(r'(?:url\(|href="|aria-labelledby=")#?([\w-]+)[)"]', page)
    assert len(ids) == len(set(ids))
    assert set(referred) <= set(ids)


def test_page_is_the_same_for_the_same_run_whatever_style_the_caller_has_set(run: Path) -> None:
    first = page_of(run)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "svg.fonttype": "path"}):
        settings = dict(matplotlib.rcParams)
        assert page_of(run) == first
        assert dict(matplotlib.rcParams) == settings


def test_report_is_moved_into_place_and_leaves_nothing_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(run.iterdir())
    assert write_report(run) == run / "report.html"
    assert set(run.iterdir()) - before == {run / "report.html"}
    good = (run / "report.html").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == good
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_text_of_the_run_is_escaped(tmp_path: Path) -> None:
    evil = '<b onclick="x()">&$\\frac{}$</b>'
    run = write_run(tmp_path / "evil", (evil, "blocks.1.lru"))
    (run / "config.yaml").write_text("model: {note: '</pre><script>alert(1)</script>'}\n")
    (run / "environment.json").write_text(json.dumps({"<i>cpu": "<script>"}))
    page = page_of(run)
    assert "<b onclick" not in page
    assert "<script" not in page
    assert "<i>cpu" not in page
    assert evil in unescape(page)
    assert _Elements(page).open == []


def test_title_line_and_key_numbers_say_what_the_run_did(run: Path) -> None:
    text = text_of(page_of(run))
    assert "smnist-8 256 → 31 states in 5 cuts, validation accuracy 0.913 after 2500 steps." in text
    assert "States 256 → 31" in text
    assert "Parameters 9704 → 2054" in text
    assert "Step time, now / full 0.25 0.24 to 0.29, n = 20" in text
    assert "Validation accuracy 0.9134" in text
    assert "Test accuracy 0.9021" in text
    assert "Time in cuts 1.5 s of" in text


def test_sections_come_in_reading_order(run: Path) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", page_of(run))
    expected = ["States and validation", "Loss", "Hankel singular values", "Drift", "Cuts", "Speed"]
    assert headings == [*expected, "Environment", "Configuration"]


def test_every_layer_of_every_event_has_a_row(tmp_path: Path) -> None:
    layers = ("blocks.0.lru", "blocks.1.lru")
    page = page_of(write_run(tmp_path / "two", layers))
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = [text_of(row) for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    before = (256, *KEPT)
    numbers = "0.04 0.08 0.0134 0.00421 1.7 × 10⁻⁵ 1.7 0.999123 0.12"
    expected = [
        f"{step} {layer} {before[i]} → {KEPT[i]} {KEPT[i] - 1} {numbers} cut"
        for i, step in enumerate(CUT_STEPS)
        for layer in layers
    ]
    skipped = "1500 blocks.0.lru 31 → – – – – – – – – – – skipped : gain below min_gain"
    assert rows == [*expected, skipped]


def test_rolled_back_cut_and_event_without_layers_are_told(run: Path) -> None:
    with (run / "events.jsonl").open("a") as file:
        file.write('{"step": 1700, "kind": "rolled_back", "reason": "accuracy fell by 0.03", "layers": null}\n')
    text = text_of(page_of(run))
    assert "256 → 31 states in 5 cuts (1 rolled back), validation" in text
    assert "1700 no layer named rolled back : accuracy fell by 0.03" in text


def test_refused_layer_of_a_cut_is_not_called_cut(run: Path) -> None:
    text = (run / "events.jsonl").read_text()
    refused = text.replace('"accepted": true, "reason": ""', '"accepted": false, "reason": "measured > bound"', 1)
    (run / "events.jsonl").write_text(refused)
    assert "0.12 left as it is : measured > bound 700 blocks.0.lru" in text_of(page_of(run))


def test_page_says_what_the_bound_does_not_say(run: Path) -> None:
    text = text_of(page_of(run))
    assert "Bound = 2 × the sum of the discarded Hankel singular values." in text
    assert "It holds for the layer’s linear map; it is not a bound on the network’s output or loss." in text
    assert "“Measured” is the largest value on a frequency grid, a lower estimate of the true error." in text


def test_run_in_progress_gives_a_page(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "spectra.safetensors").write_bytes(b"\x00\x01")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 2507, "train/loss": 0.4}\n{"step": 2510, "train/lo‖'.encode()[:-1])
    text = text_of(page_of(run))
    assert "Not finished: 256 → 31 states in 5 cuts, validation accuracy 0.925 (step 2500) after 2507 steps." in text
    assert "Validation accuracy 0.9246 at step 2500" in text
    assert "metrics.jsonl: 1 unreadable left out (line " in text
    assert "spectra.safetensors could not be read and is left out." in text
    assert "No spectra have been written yet." in text
    assert "Step times of the full and the small model are measured when the run finishes." in text


def test_run_that_has_only_just_started_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    page = page_of(tmp_path)
    assert "<svg" not in page
    assert page.count('class="empty"') == 8
    assert "Not finished: no cuts after 0 steps." in text_of(page)


def test_run_without_cuts_says_so(tmp_path: Path) -> None:
    text = text_of(page_of(write_run(tmp_path / "plain", cuts=0)))
    assert "256 states, no cuts, validation accuracy 0.913 after 2500 steps." in text
    assert "at the analysed steps; nothing was cut" in text


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", "-Infinity", '"text"', "{}", "[]"])
def test_any_value_may_be_missing_or_senseless(run: Path, value: str) -> None:
    for name in ("metrics.jsonl", "events.jsonl", "summary.json", "environment.json"):
        text = (run / name).read_text()
        text = re.sub(r'("(?!step"|seconds"|state/)[\w./]+": )(-?[\d.e-]+|true)(?=[,}])', rf"\g<1>{value}", text)
        (run / name).write_text(text)
    page = page_of(run)
    assert _Elements(page).open == []
    assert "blocks.0.lru" in page


def test_resumed_run_counts_the_later_row(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    rows = [{"step": s, "seconds": float(s), "train/loss": v} for s, v in ((10, 3.0), (20, 2.0), (10, 1.0))]
    write_rows(tmp_path / "metrics.jsonl", rows)
    series = RunFolder.read(tmp_path).series("train/loss")
    assert series.steps.tolist() == [10, 20]
    assert series.values.tolist() == [1.0, 2.0]


def test_border_of_a_real_spectrum_is_the_real_order(run: Path) -> None:
    """Of 512 real HSVs a cut to 124 complex slots keeps its `order`; of 256 complex ones it keeps 124."""
    row = {"before": 256, "after": 124, "order": 246}
    assert _border(row, 512) == 246
    assert _border(row, 256) == 124
    assert _border(row | {"after": None}, 256) is None


def test_ratio_says_which_way_it_divides(run: Path) -> None:
    def name_of(ratio: float) -> str:
        summary = json.loads((run / "summary.json").read_text())
        summary["step_time_ratio"]["median"] = ratio
        (run / "summary.json").write_text(json.dumps(summary))
        return _ratio(RunFolder.read(run))[0]

    assert name_of(0.26) == ", now / full"
    assert name_of(3.8) == ", full / now"


def test_many_layers_have_a_capped_legend(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "deep", tuple(f"blocks.{i}.lru" for i in range(12))))
    assert "each of the 12 layers" in page
    assert max(legend.count("<li>") for legend in re.findall(r'<ul class="legend">.*?</ul>', page, re.DOTALL)) <= 12
    headings = re.findall(r"<h3>(blocks.*?)</h3>", page)
    assert headings == 2 * [f"blocks.{i}.lru" for i in range(12)]
    assert len(page) < 2_000_000


def test_numbers_read_like_numbers() -> None:
    shown = [_number(x) for x in (None, True, 256, 12345, 0.00421, 1.7e-5, -1.5, float("inf"), float("nan"))]
    assert shown == ["–", "yes", "256", "12\u202f345", "0.00421", "1.7 × 10⁻⁵", "−1.5", "∞", "not a number"]
    assert _number(0.999123, 6) == "0.999123"
    assert [_duration(x) for x in (0.0315, 1.5, 600, 7200.0, None)] == ["31.5 ms", "1.5 s", "10 min", "2 h", "–"]


def test_every_colour_is_legible_on_the_paper_of_its_theme() -> None:
    css = (Path(write_report.__globals__["_HERE"]) / "report.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    )
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for name, color in theme.items():
            needed = {"ink": 7.0, "muted": 4.5, "accent": 4.5, "rule": 1.0, "raised": 1.0, "paper": 1.0}.get(name, 3.0)
            assert _contrast(color, theme["paper"]) >= needed, name


def _contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("given", ["missing", "empty", "file"])
def test_what_is_no_run_folder_is_refused_with_a_cure(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CheckpointError, match=rf"{given}' is (no folder|a folder without config.yaml); a run folder is"
    ):
        write_report(tmp_path / given)


@pytest.mark.parametrize("text", ["model: {", "- a list"])
def test_damaged_configuration_is_refused(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        write_report(run)
