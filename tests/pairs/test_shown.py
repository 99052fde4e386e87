"""`finer-ray pairs`: what a person sees."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import QueryError
from finer_ray.pairs.shown import class_index, shown_pairs
from finer_ray.store.tables import PAIRS
from tests.report.site.exports import make


def shown(out: str, *options: str) -> str:
    run = CliRunner().invoke(app, ["pairs", out, *options], terminal_width=300)
    assert run.exit_code == 0, run.output
    return run.output


def test_the_table_is_made_once_and_names_classes(tmp_path: Path) -> None:
    made = make(tmp_path, images=30, regions=False)
    said = shown(made.folder.url)
    file = tmp_path / "out" / "pairs.parquet"
    held = file.read_bytes(), file.stat().st_mtime_ns
    # As they are written: no markup.
    assert "<b>hen</b>" in said
    assert "some cosines are not known" in said
    assert shown(made.folder.url) == said
    assert (file.read_bytes(), file.stat().st_mtime_ns) == held
    lines = [line for line in shown(made.folder.url, "--class", "dog").splitlines() if "│" in line]
    assert sorted([cell.strip() for cell in line.split("│")[1:4]] for line in lines) == [
        ["dog", "<b>hen</b>", "8"],
        ["dog", "cat", "8"],
        ["dog", "fox", "8"],
    ]
    assert shown(made.folder.url, "--rows", "2").count("│") == 2 * 10
    assert "2 of 12 pairs; --rows 0 shows all" in shown(made.folder.url, "--rows", "2")


def test_without_references_labels_or_basis_it_says_so(tmp_path: Path) -> None:
    none = make(tmp_path / "a", references=0).folder.url
    assert "no image is compared with a reference" in shown(none)
    assert "no image of this class is compared" in shown(none, "--class", "dog")
    said = shown(make(tmp_path / "b", labels=False, basis=False).folder.url)
    assert "no image is labelled with one of these classes" in said
    assert "output.basis: false" in said


def test_the_confused_come_first_and_the_part_that_stands_out_is_named() -> None:
    line = {"class": 0, "name": "a", "reference": 1, "reference_name": "b", "images": 9, "logit_gap": 1.0}
    other = {**line, "reference": 2, "reference_name": "c", "images": 1, "confused": 1}
    parts = {"parts": [("body", 0.6), ("bill", 0.3)], "part_cells": [("body", 0.7), ("bill", 0.05)]}
    table, notes = shown_pairs(PAIRS.empty_table().from_pylist([line, {**other, **parts}], PAIRS), None, 0)
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert columns["reference"] == ["c", "b"]
    assert columns["most on part"] == ["bill 30% (of cells 5%)", "-"]
    assert columns["evidence"] == ["-", "-"]
    assert len(notes) == 2


def test_a_class_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"--class: no class of the export is called 'crew' \(nearest: crow\)"):
        class_index(["crow", "owl"], "crew")
    with pytest.raises(QueryError, match=r"2 classes are called 'owl': give an index \(1, 2\)"):
        class_index(["crow", "owl", "owl"], "owl")
    assert class_index(["1", "0"], "1") == 0
