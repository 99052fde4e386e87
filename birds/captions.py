"""Captions: texts about birds, each with the species of which it is true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from birds.species import ATTRIBUTES, SPECIES, VARIED, attribute, strengths, values

NAMED = ("{}", "a {}", "a photo of a {}", "a photo of a {}.", "a picture of a {}", "a {} on its perch.")
SHOWN = ("{}", "a photo of a {}", "a photo of a {}.", "a picture of a {}", "a close-up of the {}")
DESCRIBED = ("a {} with {}", "a photo of a {} with {}", "a photo of a {} with {}.", "a picture of a {} with {}")
BIRD, NOTHING = "bird", "perch without a bird"
GENERA = tuple(dict.fromkeys(species.genus for species in SPECIES))
# The label of pictures that show no bird.
EMPTY = len(SPECIES)


@dataclass(frozen=True)
class Caption:
    """A text.

    Attributes:
        text: "a photo of a bird with a red bill and a white wing bar."
        true_of: (25,) bool; of which species, and in the last place, whether of a picture without a bird.
    """

    text: str
    true_of: NDArray[np.bool_]


def names(rng: np.random.Generator) -> list[Caption]:
    """Every species' name once, in random templates, in the order of SPECIES."""
    return [
        Caption(_template(rng, NAMED).format(species.name), np.arange(EMPTY + 1) == label)
        for label, species in enumerate(SPECIES)
    ]


def short(rng: np.random.Generator) -> list[Caption]:
    """Every attribute, every genus, the word bird, and its absence, once each, in random templates."""
    has = np.vstack([strengths() > 0, np.zeros((1, len(ATTRIBUTES)), dtype=bool)])
    shown = [(text, has[:, place]) for place, text in enumerate(ATTRIBUTES)]
    shown += [(genus, _of_genus(genus)) for genus in GENERA]
    shown += [(BIRD, np.arange(EMPTY + 1) < EMPTY), (NOTHING, np.arange(EMPTY + 1) == EMPTY)]
    return [Caption(_template(rng, SHOWN).format(text), true_of) for text, true_of in shown]


def described(rng: np.random.Generator, count: int) -> list[Caption]:
    """Birds or genera with one to three attributes of some species; in a third of them one value is another's."""
    return [_described(rng) for _ in range(count)]


def vocabulary() -> set[str]:
    """Every text of which captions are put together."""
    texts = {template.replace("{}", "") for template in (*NAMED, *SHOWN, *DESCRIBED)}
    return texts | {species.name for species in SPECIES} | {*ATTRIBUTES, BIRD, NOTHING, "and"}


def _described(rng: np.random.Generator) -> Caption:
    species = SPECIES[rng.integers(len(SPECIES))]
    parts = rng.choice(VARIED, rng.integers(1, 4), replace=False).tolist()
    told = {part: species.parts[part] for part in parts}
    if rng.random() < 1 / 3:
        told[parts[0]] = str(rng.choice(values(parts[0])))
    genus = species.genus if rng.random() < 0.25 else BIRD
    of_genus = np.arange(EMPTY + 1) < EMPTY if genus == BIRD else _of_genus(genus)
    matches = [all(other.parts[part] == value for part, value in told.items()) for other in SPECIES]
    listed = _listed([attribute(part, value) for part, value in told.items()])
    return Caption(_template(rng, DESCRIBED).format(genus, listed), of_genus & np.array([*matches, False]))


def _of_genus(genus: str) -> NDArray[np.bool_]:
    return np.array([*(species.genus == genus for species in SPECIES), False])


def _listed(texts: Sequence[str]) -> str:
    """ "a red bill, pink legs and a white wing bar"."""
    articled = [text if text.endswith("s") else f"a {text}" for text in texts]
    return " and ".join(part for part in (", ".join(articled[:-1]), articled[-1]) if part)


def _template(rng: np.random.Generator, templates: Sequence[str]) -> str:
    return str(rng.choice(templates))
