"""Curves of scaling: what is varied, and the figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramian.lab.bench import scaling
from gramian.lab.bench.scaling import AXES, Curve, draw
from gramian.lab.bench.settings import Settings, Shape


def test_one_axis_moves_and_the_others_stay_at_the_main_job() -> None:
    settings = Settings()
    assert scaling._shape("N", 64, None, settings) == Shape(50, 784, 8, 64)
    assert scaling._shape("L", 64, 25, settings) == Shape(50, 64, 8, 25)
    assert scaling._shape("B", 64, 256, settings) == Shape(64, 784, 8, 256)
    assert scaling._shape("H", 64, 256, settings) == Shape(50, 784, 64, 256)


def curve(axis: str, exponent: float, label: str = "") -> Curve:
    sizes = tuple(AXES[axis][1])
    costs = tuple(1e-3 * size**exponent for size in sizes)
    return Curve(axis, label, sizes, costs, costs, costs)


def test_row_of_a_curve_shows_its_exponent_and_where_it_was_fitted() -> None:
    assert scaling._exponent(curve("L", 1.5, "N 256"), "step time") == ("L", "N 256", "step time", "1.50", "L 784")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_figure_has_a_panel_for_every_axis(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    times = [curve(axis, 1.0, label) for axis in AXES for label in ("N 256", "N 25")]
    draw(times, [curve("N", 1.0), curve("L", 0.5, "N 256")], path := tmp_path / f"f{suffix}")
    content = path.read_bytes()
    assert content.startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")
    if suffix == ".svg":
        assert all(f"<!-- {axis} ({name}) -->".encode() in content for axis, (name, _) in AXES.items())
