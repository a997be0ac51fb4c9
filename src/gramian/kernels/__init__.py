"""Recurrences and what surrounds them: a slow twin that is the specification, fast twins behind one dispatch."""

from gramian.kernels.dispatch import BACKENDS, diagonal_ssm, diagonal_ssm_pairs
from gramian.kernels.scan import SCAN_BACKENDS, scan

__all__ = ["BACKENDS", "SCAN_BACKENDS", "diagonal_ssm", "diagonal_ssm_pairs", "scan"]
