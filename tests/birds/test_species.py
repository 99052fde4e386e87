"""Species: who differs from whom, and in what."""

from itertools import combinations

import numpy as np
import pytest

from birds.species import (
    ATTRIBUTES,
    PARTS,
    SPECIES,
    attributes,
    closest,
    differing_parts,
    siblings,
    strengths,
)


def test_genera_of_four_that_differ_in_one_or_two_parts() -> None:
    assert len({species.name for species in SPECIES}) == len(SPECIES) == 24
    for species in SPECIES:
        near = siblings(species)
        assert len(near) == 3
        assert species not in near
        assert sorted(len(differing_parts(species, other)) for other in near) == [1, 1, 2]
        assert {other.genus for other in near} == {species.genus}
    for a, b in combinations(SPECIES, 2):
        assert differing_parts(a, b) == differing_parts(b, a)
        assert differing_parts(a, b)


def test_attributes_tell_every_part_and_the_matrix_says_the_same() -> None:
    table = strengths()
    assert table.shape == (24, len(ATTRIBUTES))
    assert 25 <= len(set(ATTRIBUTES)) == len(ATTRIBUTES) <= 40
    assert table.any(0).all()
    for row, species in zip(table, SPECIES, strict=True):
        texts = attributes(species)
        assert [ATTRIBUTES[place] for place in np.flatnonzero(row)] == texts
        assert len(texts) == len(species.parts)
        assert set(species.parts) <= set(PARTS)
    # The two parts of each genus, counted from the attributes alone.
    for a, b in combinations(SPECIES, 2):
        assert len(set(attributes(a)) ^ set(attributes(b))) == 2 * len(differing_parts(a, b))


@pytest.mark.parametrize("species", SPECIES, ids=lambda species: species.name)
def test_closest_is_a_sibling_one_part_away(species: object) -> None:
    other, part = closest(species)  # type: ignore[arg-type]
    assert other in siblings(species)  # type: ignore[arg-type]
    assert differing_parts(species, other) == (part,)  # type: ignore[arg-type]


def test_both_parts_of_a_genus_are_asked_about_equally_often() -> None:
    asked = [(species.genus, closest(species)[1]) for species in SPECIES]
    assert len(set(asked)) == 12
    assert {asked.count(pair) for pair in asked} == {2}
