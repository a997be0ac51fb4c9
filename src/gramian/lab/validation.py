"""Settings that are checked: no unknown keys, no changes afterwards, and complaints that name the cure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gramian.errors import ConfigError, did_you_mean

__all__ = ["Strict", "complaint"]


class Strict(BaseModel):
    """No unknown keys, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def known_keys(cls, section: Mapping[str, Any]) -> list[str]:
        """The keys that can stand beside those of `section`."""
        return list(cls.model_fields)


def complaint(what: str, error: ValidationError, root: type[Strict], content: Mapping[str, Any]) -> ConfigError:
    """All that is wrong with `content`, which should have been a `root`, as one error about `what`."""
    problems = [_problem(dict(found), root, content) for found in error.errors()]
    return ConfigError(f"{what} has {len(problems)} problem{'s' * (len(problems) > 1)}:", "\n    ".join(problems))


def _problem(error: dict[str, Any], root: type[Strict], content: Mapping[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    where = ".".join(location) or "the whole"
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], root, content)
        hint = " The tolerance is called 'tau'." if location[-1] == "tol" else did_you_mean(location[-1], known)
        return f"unknown key '{where}'.{hint} Known here: {', '.join(known)}."
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (given: {error['input']!r})"


def _known_keys(location: Sequence[str], root: type[Strict], content: Mapping[str, Any]) -> list[str]:
    model: type[Strict] = root
    section: Any = content
    for part in location:
        field = model.model_fields[part].annotation
        model = next(_settings_in([field, *getattr(field, "__args__", ())]))
        section = section.get(part) if isinstance(section, Mapping) else None
    return model.known_keys(section if isinstance(section, Mapping) else {})


def _settings_in(options: Iterable[Any]) -> Iterator[type[Strict]]:
    return (option for option in options if isinstance(option, type) and issubclass(option, Strict))
