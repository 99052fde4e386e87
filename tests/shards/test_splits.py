"""Splits, told from classes."""

import pytest

from finer_ray.shards.splits import split_hint


@pytest.mark.parametrize("name", ["train", "Validation", "TEST", "dev"])
def test_a_split_is_named_with_what_to_do(name: str) -> None:
    assert split_hint(name) == f"; {name!r} is the name of a split: give the folder below it, ROOT/{name}"


@pytest.mark.parametrize("name", ["", "trainer", "tench", "train/tench"])
def test_all_else_has_no_hint(name: str) -> None:
    assert split_hint(name) == ""
