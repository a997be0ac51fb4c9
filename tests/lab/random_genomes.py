"""Genomes of nonsense, in files like those of a sequence archive."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np


def write_genome(path: Path, species: str, length: int, seed: int, letters: str = "ACGTacgt") -> str:
    """A FASTA file, compressed, of one record in lines of 80; returns its nucleotides."""
    drawn = np.random.default_rng(seed).choice(list(letters), length)
    sequence = "".join(drawn)
    lines = [f">NC_{seed}.1 {species} strain x chromosome 4", *(sequence[i : i + 80] for i in range(0, length, 80))]
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    return sequence
