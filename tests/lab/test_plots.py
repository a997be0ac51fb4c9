"""Figures are written whole, in the format their name asks for, and show every layer and seed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gramian.errors import ConfigError
from gramian.lab.plots import draw_comparison, draw_spectra

MAGIC = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}


def rows(*layers: str) -> list[dict[str, Any]]:
    return [{"layer": layer, "values": [3.0 * 0.5**i for i in range(8)]} for layer in layers]


def results(seeds: int = 2) -> dict[str, Any]:
    def run(seed: int, states: int) -> dict[str, Any]:
        curve = {"seconds": [1.0, 2.0, 3.0 + seed], "accuracy": [0.2, 0.5, 0.6]}
        return {"seed": seed, "states": states, "test": 0.5 + 0.01 * seed, "curve": curve}

    variants = {"full": 64, "tau 0.04": 30, "scratch as tau 0.04": 30}
    return {
        "title": "smnist-tiny: a check",
        "seeds": list(range(seeds)),
        "variants": {name: {"runs": [run(seed, n) for seed in range(seeds)]} for name, n in variants.items()},
    }


@pytest.mark.parametrize("suffix", MAGIC)
def test_figure_has_the_format_of_its_name(tmp_path: Path, suffix: str) -> None:
    for name, draw in (
        ("spectra", lambda path: draw_spectra(rows("a"), path)),
        ("comparison", lambda path: draw_comparison(results(), path)),
    ):
        path = tmp_path / "figures" / f"{name}{suffix}"
        draw(path)
        assert path.read_bytes().startswith(MAGIC[suffix])
    assert len(list((tmp_path / "figures").iterdir())) == 2


def test_figure_of_another_format_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.gif' was given for a figure; needed: a name that ends in \.svg"):
        draw_spectra(rows("a"), tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_spectra_are_normalised_and_every_layer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = watched_axes(monkeypatch)
    draw_spectra([*rows("blocks.0.lru"), {"layer": "blocks.1.lru", "values": [10.0, 1.0]}], tmp_path / "s.svg")
    (axes,) = drawn
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert lines == {"blocks.0.lru": [0.5**i for i in range(8)], "blocks.1.lru": [1.0, 0.1]}
    assert axes.get_yscale() == "log"
    assert len(axes.get_legend().get_texts()) == 2


def test_dead_layer_is_drawn_without_a_warning(tmp_path: Path) -> None:
    draw_spectra([*rows("alive"), {"layer": "dead", "values": [0.0, 0.0]}], tmp_path / "s.svg")
    assert "<!-- dead -->" in (tmp_path / "s.svg").read_text()


@pytest.mark.parametrize("seeds", [1, 3])
def test_comparison_shows_every_seed_and_names_every_variant_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    drawn = watched_axes(monkeypatch)
    draw_comparison(results(seeds), tmp_path / "c.png")
    over_time, by_size = drawn
    assert len(over_time.get_lines()) == 3 * seeds
    legend = [text.get_text() for text in by_size.get_legend().get_texts()]
    assert legend == ["full", "tau 0.04", "scratch as tau 0.04"]
    assert [len(collection.get_offsets()) for collection in by_size.collections] == [seeds] * 3
    assert f"seeds {list(range(seeds))}" in over_time.figure.get_suptitle()


def test_without_matplotlib_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'gramian\[plot\]'"):
        draw_spectra(rows("a"), tmp_path / "a.svg")


def watched_axes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of the next figure that is saved, as they are then."""
    from matplotlib.figure import Figure

    seen: list[Any] = []
    save = Figure.savefig

    def saving(figure: Figure, *args: Any, **options: Any) -> None:
        seen[:] = figure.axes
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", saving)
    return seen
