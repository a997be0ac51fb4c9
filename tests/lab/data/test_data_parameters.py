"""Parameters of data sets: three scales, and whatever is given beside them."""

from __future__ import annotations

import pytest

from gramian.errors import ConfigError
from gramian.lab.data import DATASETS, load_data
from gramian.lab.data.parameters import Scaled

SCALED = [name for name, info in DATASETS.items() if issubclass(info.parameters, Scaled)]


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_scale_is_valid_and_its_description_names_all_of_it(name: str, scale: str) -> None:
    parameters = DATASETS[name].parameters.model_validate({"scale": scale})
    (line,) = [line for line in DATASETS[name].scales.splitlines() if line.startswith(f"{scale}: ")]
    assert line == f"{scale}: " + ", ".join(f"{k} {v}" for k, v in parameters.model_dump().items() if k != "scale")


def test_small_is_what_is_meant_if_no_scale_is_named() -> None:
    for name in SCALED:
        kind = DATASETS[name].parameters
        assert kind.model_validate({}) == kind.model_validate({"scale": "small"})


def test_a_value_beside_the_scale_replaces_its_default_and_no_other() -> None:
    kind = DATASETS["mqar"].parameters
    changed = kind.model_validate({"scale": "tiny", "pairs": 2})
    assert changed == kind.model_validate({"scale": "tiny"}).model_copy(update={"pairs": 2})
    assert kind.model_validate(changed.model_dump()) == changed  # a resolved form is its own


def test_unknown_scale_is_the_only_problem_it_makes() -> None:
    with pytest.raises(ConfigError, match="the data set 'mqar' has 1 problem:\n    scale: ") as caught:
        load_data("mqar", scale="big")
    assert "(given: 'big')" in str(caught.value)


def test_unknown_parameter_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'pirs'\. Did you mean 'pairs'"):
        load_data("mqar", scale="tiny", pirs=2)


def test_data_set_without_parameters_takes_none() -> None:
    with pytest.raises(ConfigError, match="the data set 'digits' has 1 problem:\n    unknown key 'pairs'"):
        load_data("digits", pairs=3)
    assert DATASETS["digits"].scales == ""
