"""No speed of a kernel that computes something else: nothing is timed unless the kernels' tests are green."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import gramian
from gramian.errors import ConfigError
from gramian.lab.files import whole_file

__all__ = ["digest", "require_green_kernels", "source_tree"]

_KERNELS, _TESTS = Path("src/gramian/kernels"), Path("tests/kernels")
_COMMAND = ["-m", "pytest", str(_TESTS), "-q", "-x", "-p", "no:cacheprovider"]


def source_tree() -> Path:
    """The folder that holds ``src`` and ``tests``; a `ConfigError` for a package installed without them."""
    root = Path(gramian.__file__).resolve().parents[2]
    if not (root / _KERNELS).is_dir() or not any((root / _TESTS).glob("test_*.py")):
        raise ConfigError(
            f"gramian runs from '{Path(gramian.__file__).parent}', where there is no {_TESTS} beside it.",
            "Speeds are measured only when the kernels' tests are green, and these come with the source tree.",
            "git clone the repository, then: pip install -e '.[bench,test]'",
        )
    return root


def digest(root: Path) -> str:
    """SHA-256 of all Python files of kernels and their tests, names and content, and of the versions they run on."""
    total = hashlib.sha256(f"{sys.version} torch {version('torch')} numba {version('numba')}".encode())
    for folder in (_KERNELS, _TESTS):
        for path in sorted((root / folder).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()


def require_green_kernels(root: Path) -> str:
    """Run the kernels' tests, unless they were green for exactly this content already; the digest of it.

    Raises
    ------
    ConfigError
        If the tests are red, or the files changed while they ran.
    """
    content, verdict = digest(root), _cache() / "kernels-green"
    if verdict.is_file() and content in verdict.read_text().split():
        return content
    done = subprocess.run([sys.executable, *_COMMAND], cwd=root, capture_output=True, text=True, check=False)
    again = f"python {' '.join(_COMMAND)}"
    if done.returncode != 0:
        told = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ConfigError(
            f"the kernels' tests are red (pytest ended with {done.returncode}): nothing was timed.", told, again
        )
    if digest(root) != content:
        raise ConfigError("the kernels or their tests changed while the tests ran: nothing was timed.", cure=again)
    with whole_file(verdict) as draft:
        draft.write_text(content + "\n")
    return content


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gramian" / "bench"
