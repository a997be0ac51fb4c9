"""Recurrences and what surrounds them: a slow twin that is the specification, fast twins behind one dispatch."""

from gramian.kernels.causal_conv import CONV_BACKENDS, causal_conv1d
from gramian.kernels.dispatch import BACKENDS, diagonal_ssm, diagonal_ssm_pairs
from gramian.kernels.scan import SCAN_BACKENDS, scan
from gramian.kernels.selective import SELECTIVE_BACKENDS, selective_scan

__all__ = [
    "BACKENDS",
    "CONV_BACKENDS",
    "SCAN_BACKENDS",
    "SELECTIVE_BACKENDS",
    "causal_conv1d",
    "diagonal_ssm",
    "diagonal_ssm_pairs",
    "scan",
    "selective_scan",
]
