"""What holds for every test: few threads, no luck with uninitialised memory, and the same examples on every run."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

# In deterministic mode `torch.empty` comes filled with NaN, so whoever reads what was never written is found out. On a
# GPU the same mode refuses operations that layers may use.
if not torch.cuda.is_available():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True

settings.register_profile("default", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=2000)  # pytest --hypothesis-profile=thorough
settings.load_profile("default")
