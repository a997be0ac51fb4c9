"""The tables there are: a name, the question it answers, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gramian.errors import ConfigError, did_you_mean
from gramian.lab.bench.cost_tables import cuts_table, inference_table
from gramian.lab.bench.first_call_tables import first_call_table
from gramian.lab.bench.kernel_tables import layer_table, scan_table
from gramian.lab.bench.mamba2_tables import mamba2_table
from gramian.lab.bench.mamba_tables import mamba_table, selective_table
from gramian.lab.bench.mamba_training_tables import mamba_training_table
from gramian.lab.bench.profiles import profile_table
from gramian.lab.bench.report import Result
from gramian.lab.bench.scaling import scaling_table
from gramian.lab.bench.settings import Settings
from gramian.lab.bench.share_tables import cut_shares_table
from gramian.lab.bench.step_tables import evaluate_table, step_table, wide_table

__all__ = ["TABLES", "Table", "chosen"]


@dataclass(frozen=True)
class Table:
    """One question and the way to its answer."""

    name: str
    question: str
    measure: Callable[[Settings], Result]


_TABLES = (
    Table(
        "layer", "How far is the LRU layer, with all gradients, from copying the states it never stores?", layer_table
    ),
    Table(
        "step", "How fast is a training step of the main job, before and after cuts, and how much memory?", step_table
    ),
    Table("wide", "At 512 channels, how near is a training step to what matrix products can do?", wide_table),
    Table("scan", "How far is the raw scan, which does store all states, from copying them?", scan_table),
    Table("evaluate", "How fast is the forward pass alone, as in evaluation?", evaluate_table),
    Table("cuts", "What does a cut cost, and which share of a run are cuts?", cuts_table),
    Table(
        "cut-shares", "Which share of a training are cuts, in every configuration that is shipped?", cut_shares_table
    ),
    Table("first-call", "What does the first call of a process cost?", first_call_table),
    Table("inference", "What do one step and a whole prompt cost at every size?", inference_table),
    Table("scaling", "How do step time and memory grow with states, length, batch and channels?", scaling_table),
    Table("mamba", "How fast is Mamba, before and after a cut, and how much memory does it take?", mamba_table),
    Table("selective", "How does the time of Mamba's selective scan alone grow with its states?", selective_table),
    Table(
        "mamba-training",
        "How long is a whole training of Mamba that is cut in its first tenth, beside mambapy at full size?",
        mamba_training_table,
    ),
    Table("mamba2", "How fast is Mamba-2, before and after cuts, beside the same model in transformers?", mamba2_table),
    Table("profile", "Where does the time of a training step go?", profile_table),
)

TABLES: Mapping[str, Table] = {table.name: table for table in _TABLES}
"""All tables by name, in the order they are made."""


def chosen(names: Iterable[str]) -> list[Table]:
    """The tables of these names, all if there are none; a `ConfigError` for one that does not exist."""
    asked = list(dict.fromkeys(names))
    for name in asked:
        if name not in TABLES:
            raise ConfigError(f"table '{name}' is not known.{did_you_mean(name, TABLES)} Known: {', '.join(TABLES)}.")
    return [TABLES[name] for name in asked] or list(TABLES.values())
