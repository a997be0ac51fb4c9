"""The public names: these, no others, few, and each with a docstring."""

from __future__ import annotations

import inspect
import re

import gramian

NAMES = [
    "LRU",
    "At",
    "Budget",
    "Calibration",
    "Compressor",
    "Energy",
    "ErrorBound",
    "Every",
    "LinearAttention",
    "LinearSystem",
    "Mamba",
    "Mamba2",
    "Never",
    "Rank",
    "Reducible",
    "RollBack",
    "Shrink",
    "WhenStable",
    "__version__",
    "balanced",
    "compress_",
    "error_bound",
    "h2_norm",
    "hankel_singular_values",
    "hinf_norm",
    "reducible_layers",
    "register_adapter",
    "resize_like_",
]


def public() -> dict[str, object]:
    return {name: getattr(gramian, name) for name in gramian.__all__ if name != "__version__"}


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(gramian.__all__) == sorted(NAMES)
    assert len(set(gramian.__all__)) == len(gramian.__all__) <= 28


def test_every_public_name_says_what_it_is_in_one_line() -> None:
    for name, thing in public().items():
        docstring = inspect.getdoc(thing)
        assert docstring, name
        assert not docstring.startswith(f"{name}("), f"{name} has only the docstring that dataclasses make"
        assert docstring.splitlines()[0].endswith("."), name


def test_public_methods_say_what_they_do() -> None:
    for name, thing in public().items():
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_") and method != "extra_repr":
                    assert inspect.getdoc(getattr(thing, method)), f"{name}.{method}"


def test_public_functions_are_typed() -> None:
    for name, thing in public().items():
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?((a|b|rc|\.dev)\d+)?", gramian.__version__)
