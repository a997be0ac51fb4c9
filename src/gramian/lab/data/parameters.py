"""What a data set can be asked for beside its name, root and seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from gramian.lab.validation import Strict

__all__ = ["Generated", "Parameters", "Scaled"]


class Parameters(Strict):
    """None: a data set that is what it is."""


class Scaled(Parameters):
    """Parameters with three sets of defaults; whatever is given beside `scale` replaces its default.

    ``tiny`` shows that something runs, ``small`` is for a laptop, ``paper`` is what was published, or as much as
    there is.
    """

    SCALES: ClassVar[Mapping[str, Mapping[str, Any]]]

    scale: Literal["tiny", "small", "paper"] = "small"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_scale(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        scale = str(given.get("scale", "small"))
        return {**cls.SCALES.get(scale, cls.SCALES["small"]), **given}  # the field itself refuses an unknown scale

    @classmethod
    def described(cls) -> str:
        """Every parameter of every scale, one line a scale."""
        lines = []
        for scale in cls.SCALES:
            values = cls.model_validate({"scale": scale}).model_dump(exclude={"scale"})
            lines.append(f"{scale}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
        return "\n".join(lines)


class Generated(Scaled):
    """Sequences made by a generator: how many of each split, and whether training goes through them more than once.

    With `fresh`, training draws new sequences at every step; the training split then serves for looks at it only.
    """

    n_train: int = Field(ge=1)
    n_valid: int = Field(ge=1)
    n_test: int = Field(ge=1)
    fresh: bool
