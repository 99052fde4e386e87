"""Species: 24 birds in six genera, whose siblings differ in one or two known parts."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

# From the bill to the legs; a part map holds 1 + the index into this.
PARTS = (
    "bill", "eye", "eye ring", "crown", "cheek", "head", "throat", "breast", "belly", "back", "rump",
    "wing", "wing bar", "tail", "tail tip", "legs",
)  # fmt: skip

# How a name speaks of a part's value: "red-billed", "spot-breasted".
_ADJECTIVES = {
    "bill": "billed", "eye ring": "ringed", "crown": "crowned", "cheek": "cheeked", "throat": "throated",
    "breast": "breasted", "belly": "bellied", "rump": "rumped", "wing bar": "barred", "tail tip": "tipped",
    "legs": "legged",
}  # fmt: skip
_STEMS = {"spotted": "spot", "streaked": "streak", "banded": "band"}


@dataclass(frozen=True)
class Species:
    """A species of the set.

    Attributes:
        name: "red-billed white-barred reed finch".
        genus: "reed finch"; decides the body plan and the plumage that `parts` leaves open.
        parts: the value of each part that varies somewhere in the set, such as bill: red.
    """

    name: str
    genus: str
    parts: dict[str, str]


@dataclass(frozen=True)
class _Genus:
    """What the four species of a genus share, and the two parts, with two values each, in which they differ."""

    name: str
    shared: dict[str, str]
    design: dict[str, tuple[str, str]]

    def species(self) -> list[Species]:
        pairs = [dict(zip(self.design, values, strict=True)) for values in product(*self.design.values())]
        return [Species(self._name(pair), self.name, self._ordered(pair)) for pair in pairs]

    def _name(self, pair: dict[str, str]) -> str:
        words = [f"{_STEMS.get(value, value)}-{_ADJECTIVES[part]}" for part, value in pair.items()]
        return " ".join([*words, self.name])

    def _ordered(self, pair: dict[str, str]) -> dict[str, str]:
        values = {**self.shared, **pair}
        return {part: values[part] for part in PARTS if part in values}


_GENERA = (
    _Genus(
        "reed finch",
        {
            "crown": "chestnut", "tail tip": "black", "breast": "streaked", "eye ring": "white", "cheek": "grey",
            "belly": "buff", "throat": "black", "rump": "grey", "legs": "pink",
        },
        {"bill": ("red", "yellow"), "wing bar": ("white", "yellow")},
    ),
    _Genus(
        "willow warbler",
        {
            "bill": "grey", "wing bar": "white", "breast": "plain", "eye ring": "yellow", "cheek": "grey",
            "belly": "yellow", "throat": "white", "rump": "yellow", "legs": "yellow",
        },
        {"crown": ("black", "yellow"), "tail tip": ("white", "black")},
    ),
    _Genus(
        "hill thrush",
        {
            "bill": "yellow", "wing bar": "chestnut", "crown": "grey", "tail tip": "white", "cheek": "grey",
            "belly": "white", "throat": "white", "rump": "grey", "legs": "pink",
        },
        {"breast": ("spotted", "streaked"), "eye ring": ("white", "yellow")},
    ),
    _Genus(
        "marsh tit",
        {
            "bill": "black", "wing bar": "white", "crown": "blue", "tail tip": "black", "breast": "plain",
            "eye ring": "white", "throat": "black", "rump": "grey", "legs": "grey",
        },
        {"cheek": ("white", "chestnut"), "belly": ("yellow", "white")},
    ),
    _Genus(
        "river kingfisher",
        {
            "bill": "black", "wing bar": "white", "crown": "blue", "tail tip": "black", "breast": "plain",
            "eye ring": "red", "cheek": "chestnut", "belly": "buff", "legs": "red",
        },
        {"throat": ("white", "black"), "rump": ("white", "chestnut")},
    ),
    _Genus(
        "sand plover",
        {
            "bill": "black", "wing bar": "white", "crown": "chestnut", "tail tip": "white", "eye ring": "red",
            "cheek": "white", "belly": "white", "throat": "white", "rump": "white",
        },
        {"legs": ("red", "yellow"), "breast": ("banded", "plain")},
    ),
)  # fmt: skip

SPECIES: tuple[Species, ...] = tuple(species for genus in _GENERA for species in genus.species())


def attributes(species: Species) -> list[str]:
    """A text for every varied part of a species, in the order of PARTS: ["red bill", "white eye ring", ...]."""
    return [attribute(part, value) for part, value in species.parts.items()]


def attribute(part: str, value: str) -> str:
    """The text of one part's value: "red bill"."""
    return f"{value} {part}"


def values(part: str) -> tuple[str, ...]:
    """Every value that a part takes in the set, in the order of SPECIES."""
    return tuple(dict.fromkeys(species.parts[part] for species in SPECIES))


VARIED: tuple[str, ...] = tuple(SPECIES[0].parts)
ATTRIBUTES: tuple[str, ...] = tuple(attribute(part, value) for part in VARIED for value in values(part))


def strengths() -> NDArray[np.float32]:
    """Which species has which attribute: (24, len(ATTRIBUTES)) of 0 and 1, rows as SPECIES, columns as ATTRIBUTES."""
    rows = [[text in attributes(species) for text in ATTRIBUTES] for species in SPECIES]
    return np.array(rows, dtype=np.float32)


def differing_parts(a: Species, b: Species) -> tuple[str, ...]:
    """The parts whose values differ, in the order of PARTS. One or two where both are of one genus.

    Across genera the body plan and the plumage that no attribute names differ too: the parts are then no whole
    account of the difference.
    """
    return tuple(part for part in VARIED if a.parts[part] != b.parts[part])


def siblings(species: Species) -> tuple[Species, ...]:
    """The other three species of the genus."""
    return tuple(other for other in SPECIES if other.genus == species.genus and other != species)


def closest(species: Species) -> tuple[Species, str]:
    """A sibling that differs in one part only, and that part.

    There are two such siblings; which is taken alternates over a genus, so that each of its two parts is asked
    about equally often.
    """
    near = [other for other in siblings(species) if len(differing_parts(species, other)) == 1]
    place = SPECIES.index(species) % 4
    by_part = {differing_parts(species, other)[0]: other for other in near}
    design = next(genus.design for genus in _GENERA if genus.name == species.genus)
    part = tuple(design)[(place // 2 + place) % 2]
    return by_part[part], part
