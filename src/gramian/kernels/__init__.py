"""Recurrences and what surrounds them: a slow twin that is the specification, fast twins behind one dispatch."""

from gramian.kernels.causal_conv import CONV_BACKENDS, causal_conv1d
from gramian.kernels.dispatch import BACKENDS, diagonal_ssm, diagonal_ssm_pairs
from gramian.kernels.gated_attention import GATED_ATTENTION_BACKENDS, gated_attention
from gramian.kernels.gated_norm import gated_rms_norm
from gramian.kernels.mamba2_mixer import mamba2_mixer
from gramian.kernels.rms_norm import rms_norm
from gramian.kernels.scan import SCAN_BACKENDS, scan
from gramian.kernels.selective import SELECTIVE_BACKENDS, selective_scan
from gramian.kernels.selective_states import STATES_BACKENDS, selective_states
from gramian.kernels.selective_step import selective_step
from gramian.kernels.ssd import SSD_BACKENDS, ssd

__all__ = [
    "BACKENDS",
    "CONV_BACKENDS",
    "GATED_ATTENTION_BACKENDS",
    "SCAN_BACKENDS",
    "SELECTIVE_BACKENDS",
    "SSD_BACKENDS",
    "STATES_BACKENDS",
    "causal_conv1d",
    "diagonal_ssm",
    "diagonal_ssm_pairs",
    "gated_attention",
    "gated_rms_norm",
    "mamba2_mixer",
    "rms_norm",
    "scan",
    "selective_scan",
    "selective_states",
    "selective_step",
    "ssd",
]
