"""The Triton scan, as far as a machine without a GPU can tell: interpreted, compiled, and refused with a reason."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gramian.errors import ConfigError
from gramian.kernels import scan_triton
from gramian.kernels.scan import scan

CHECKS = Path(__file__).with_name("triton_checks.py")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install 'gramian[triton]', on Linux",
)
not_interpreted = pytest.mark.skipif(scan_triton._INTERPRETED, reason="TRITON_INTERPRET=1 is set for all tests")


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A second copy of the module, imported where Triton is not installed."""
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("scan_triton_without_triton", scan_triton.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_triton
def test_interpreted_kernels_are_the_specification():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(CHECKS)]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
@not_interpreted
@pytest.mark.parametrize("real", ["fp32", "fp64"])
@pytest.mark.parametrize(
    ("kernel", "constants"),
    [("_ends", {"BACK": False}), ("_ends", {"BACK": True}), ("_states", {}), ("_adjoint", {})],
    ids=["ends", "ends back", "states", "adjoint"],
)
def test_compiler_makes_one_access_of_each_pair(kernel, constants, real, tmp_path, monkeypatch):
    """A GPU is not needed to compile for one (compute capability 8.0), nor to read what comes out."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(scan_triton, kernel)
    constants = {**constants, "TILE": scan_triton._TILE}
    sizes = dict.fromkeys(("L", "N", "chunks", "steps"), "i32") | dict.fromkeys(constants, "constexpr")
    signature = {name: sizes.get(name, f"*{real}") for name in function.arg_names}
    places = {name: (place,) for place, name in enumerate(signature)}
    source = ASTSource(
        function,
        signature,
        {places[name]: value for name, value in constants.items()},
        # what Triton finds out about torch's tensors when it launches: they begin at multiples of 16 bytes
        {places[name]: [["tt.divisibility", 16]] for name, kind in signature.items() if kind.startswith("*")},
    )
    code = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 1}).asm["ptx"]
    assert set(re.findall(r"(?:ld|st)\.global\.v?\d*", code)) == {"ld.global.v2", "st.global.v2"}
    assert not re.search(r"shfl|bar\.sync|\.shared|\batom|\bred\.", code)


@needs_triton
@not_interpreted
def test_triton_without_a_gpu_is_refused_with_the_reason(without_gpu):
    assert "no CUDA device" in scan_triton.why_not()
    x = torch.ones(1, 2, 3, dtype=torch.complex64)
    with pytest.raises(ConfigError, match="'triton' was asked for") as caught:
        scan(x, x[0, 0], backend="triton")
    assert caught.value.why == scan_triton.why_not()
    assert caught.value.cure == "backend='auto'"


@not_interpreted
def test_tensors_of_the_cpu_are_refused_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(scan_triton, "why_not", lambda: "")
    with pytest.raises(ConfigError, match="on 'cpu'"):
        scan(torch.ones(1, 2, 3, dtype=torch.complex64), torch.ones(3), backend="triton")


def test_missing_triton_is_found_out_when_asked_for_not_when_imported(without_triton):
    x = torch.ones(1, 2, 3, 2)
    assert "not installed" in without_triton.why_not()
    with pytest.raises(ConfigError, match="not installed"):
        without_triton.scan_triton(x, x[0, 0], x[:, 0])
    with pytest.raises(ConfigError, match="not installed"):
        without_triton.scan_backward_triton(x, x, x[:, 0], x[0, 0])
