"""Recurrences: a slow twin that is the specification, fast twins behind one dispatch."""

from gramian.kernels.dispatch import BACKENDS, diagonal_ssm

__all__ = ["BACKENDS", "diagonal_ssm"]
