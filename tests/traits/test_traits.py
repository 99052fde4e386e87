"""Traits against planted clusters, masses by hand, and other orders of the same images."""

from pathlib import Path

import numpy as np
import pytest

from finer_ray.traits import all_traits, pair_traits, trait_table
from tests.traits.exports import planted


def test_the_planted_part_is_the_first_trait(tmp_path: Path) -> None:
    export, part = planted(tmp_path / "out")
    for a, b in ((0, 1), (1, 0)):
        first = pair_traits(export, a, b, clusters=4)[0]
        cells, _ = export.patches([cell.row for cell in first.cells])
        rows = [cell.row for cell in first.cells]
        shown = [part[row, list(own).index(cell.cell)] for row, own, cell in zip(rows, cells, first.cells, strict=True)]
        assert shown == [a] * 9
        assert first.prevalence_a == 1
        assert first.stability is not None
        assert first.stability > 0.95
