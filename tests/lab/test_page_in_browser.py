"""The run page in a real browser: nothing sticks out on a phone or a desk, and the console stays silent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest
from example_run import write_run

from gramian.lab.page import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
)
WIDTHS = (390, 1280)
MEASURE = """
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument.documentElement;
    const texts = [...page.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height);
    const panels = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width);
    return {wide: page.scrollWidth, room: page.clientWidth, panels, smallest: Math.min(...texts)};
  });
  document.querySelector("output").textContent = JSON.stringify(found);
});
"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")


def browse(page: str, folder: Path) -> tuple[str, str]:
    """The DOM and the log after loading `page` from a file in an otherwise empty browser profile."""
    (folder / "wrapper.html").write_text(page, encoding="utf-8")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "wrapper.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def wrapped(page: str) -> str:
    """`page` in one frame per width; frames because a headless window is never narrower than 500 px."""
    frames = (f'<iframe style="width: {w}px; height: 900px" srcdoc="{escape(page)}"></iframe>' for w in WIDTHS)
    return f"<!doctype html><html><body><output></output>{''.join(frames)}<script>{MEASURE}</script></body></html>"


@pytest.mark.parametrize("n_layers", [1, 12])
def test_page_fits_phone_and_desk_without_a_word_on_the_console(tmp_path: Path, n_layers: int) -> None:
    layers = tuple(f"backbone.blocks.{i}.mixer.lru" for i in range(n_layers))
    page = write_report(write_run(tmp_path / ("long_name_" * 8), layers)).read_text(encoding="utf-8")
    dom, log = browse(wrapped(page), tmp_path)
    match = re.search(r"<output>(.*?)</output>", dom)
    assert match is not None
    measured = json.loads(unescape(match[1]))
    assert len(measured) == len(WIDTHS)
    for frame, width in zip(measured, WIDTHS, strict=True):
        assert frame["wide"] <= frame["room"] <= width
        assert len(frame["panels"]) == 5 + 2 * n_layers
        assert min(frame["panels"]) > 250
        assert frame["smallest"] >= 9
    assert "CONSOLE" not in log


def test_the_console_is_really_read(tmp_path: Path) -> None:
    _, log = browse("<script>throw new Error('heard')</script>", tmp_path)
    assert "CONSOLE" in log
    assert "heard" in log
