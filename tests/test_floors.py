"""An import may only point down the house: every import under `src/gramian` is parsed, lazy ones too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "gramian"
FLOORS = (
    {"allocator", "errors", "version"},
    {"systems", "kernels"},
    {"layers"},
    {"compression", "baselines"},
    {"integrations"},
    {"lab", "cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FLOOR_OF_THE_PACKAGE = FLOOR["integrations"]  # gramian/__init__.py shows what lies below lab and cli
GUESTS = {"transformers", "lightning", "pytorch_lightning", "accelerate", "mamba_ssm"}
OPEN_TO_GUESTS = ("gramian.layers.adapters", "gramian.integrations", "gramian.lab")
CONCRETE_LAYERS = {"lru", "s5", "s4d", "mamba", "mamba2", "linear_attention", "adapters"}

Import = tuple[int, str]  # line, dotted name


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every name that `source` imports, in full: ``from a import b`` is ``a.b``, whatever ``b`` is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: len(module.split(".")) + is_package - node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def floor_of(name: str) -> int:
    """The floor of a dotted name under ``gramian``; what the package itself defines is on the package's floor."""
    room = [*name.split("."), ""][1]
    return FLOOR.get(room, FLOOR_OF_THE_PACKAGE)


def is_in(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `source` imports and must not, one line each."""
    found = []
    for line, name in imports(source, module, is_package):
        where = f"{module}:{line} imports {name}"
        if is_in(name, "gramian") and floor_of(name) > floor_of(module):
            found.append(f"{where}: up from floor {floor_of(module)} to floor {floor_of(name)}")
        if is_in(module, "gramian.systems") and is_in(name, "torch.nn"):
            found.append(f"{where}: systems has never heard of modules")
        if is_in(module, "gramian.compression") and is_in(name, "gramian.layers"):
            parts = name.split(".")
            if len(parts) > 2 and parts[2] in CONCRETE_LAYERS:
                found.append(f"{where}: compression knows no concrete layer")
        if name.split(".")[0] in GUESTS and not is_in(module, *OPEN_TO_GUESTS):
            found.append(f"{where}: other frameworks stay in {', '.join(OPEN_TO_GUESTS)}")
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_import_points_up(path: Path) -> None:
    found = offences(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__", "__main__"} <= set(FLOOR)


def test_all_sources_were_found() -> None:
    assert {"gramian.errors", "gramian.version", "gramian.systems.gramians"} <= {module_name(path) for path in SOURCES}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gramian.errors", "import gramian.systems"),
        ("gramian.errors", "from . import systems"),
        ("gramian.systems.norms", "from gramian.layers.reducible import Reducible"),
        ("gramian.systems.norms", "from gramian import layers"),
        ("gramian.systems.norms", "from gramian import __version__"),
        ("gramian.systems.norms", "from ..layers import lru"),
        ("gramian.systems.norms", "def f():\n    from gramian.lab import models"),
        ("gramian.systems.norms", "import torch.nn"),
        ("gramian.systems.norms", "from torch import nn"),
        ("gramian.systems.norms", "from torch.nn.functional import pad"),
        ("gramian.kernels.dispatch", "import gramian.layers.lru as lru"),
        ("gramian.layers.lru", "from gramian.compression.policies import Energy"),
        ("gramian.layers.lru", "import transformers"),
        ("gramian.compression.compressor", "from gramian.layers.lru import LRU"),
        ("gramian.compression.compressor", "from gramian.layers import mamba"),
        ("gramian.compression.compressor", "from accelerate import Accelerator"),
        ("gramian.baselines.distillation", "from gramian.integrations.export import save"),
        ("gramian.integrations.export", "from gramian.lab.train import train"),
        ("gramian", "from gramian.lab import train"),
        ("gramian", "from .cli import main"),
    ],
)
def test_an_import_that_points_up_would_be_found(module: str, source: str) -> None:
    assert offences(source, module, is_package=module == "gramian")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gramian.systems.norms", "import torch\nfrom gramian.errors import ShapeError"),
        ("gramian.systems.norms", "from .gramians import equilibrated\nfrom ..version import __version__"),
        ("gramian.layers.adapters.mamba", "import transformers"),
        ("gramian.compression.compressor", "from gramian.layers.reducible import Reducible"),
        ("gramian.lab.train", "from gramian import Compressor\nimport gramian.cli\nimport lightning"),
        ("gramian", "from gramian.integrations.export import save"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, source: str) -> None:
    assert not offences(source, module, is_package=module == "gramian")
