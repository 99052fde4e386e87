"""Traits of an export: of one pair of classes, of one class, or of all that occur."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.errors import QueryError
from finer_ray.pairs.shown import class_index
from finer_ray.store.reading import Export
from finer_ray.store.tables import TRAITS
from finer_ray.traits.images import Index, Places, Watch, gather, read_attributes, read_index, spread
from finer_ray.traits.trait import DEFAULT, Kind, Looked, Settings, Trait, find_traits

# Classes that a message names.
MAX_NAMED = 10
# Columns of the table that the class and its reference give the names.
COLUMNS = {
    "class": "a",
    "reference": "b",
    "prevalence": "prevalence_a",
    "reference_prevalence": "prevalence_b",
    "images": "images_a",
    "reference_images": "images_b",
}
# Of n images: rows (n,) and cells (n, P), -1 for none, to evidence (n, P).
Evidence = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.floating[Any]]]


def pair_traits(
    export: Export,
    a: int,
    b: int,
    *,
    kind: Kind = "pair",
    gamma: float = DEFAULT.gamma,
    clusters: int = 6,
    images: int = 500,
    resamples: int = 20,
    shown: int = 9,
    seed: int = 0,
    evidence: Evidence | None = None,
    attributes: str | None = None,
) -> list[Trait]:
    """What the images of class a have that speaks for a and against b.

    Args:
        export: with patches (`output.patches`) and the contrast basis.
        a, b: class indices, places in `manifest.classes`.
        kind: pair, or shared: what speaks for both (gamma -1).
        gamma: of the evidence relu(M_a - gamma M_b) of a cell, see `Settings`.
        clusters, images, resamples, shown, seed: see `Settings`.
        evidence: another one, of n images: from rows (n,) and cells (n, P), y * w + x, -1 for none, to (n, P), of which
            what is negative counts as 0. `lambda rows, cells: numpy.ones(cells.shape)` weighs all alike.
        attributes: a column of `images` of the user's own with attributes, see `read_attributes`.

    Returns:
        Ranked; none where no image of a is compared with b, or no cell has evidence.

    Raises:
        ExportError: the export has no patches or no basis. QueryError: it has no such column.

    >>> from finer_ray.store.reading import open_export
    >>> [trait.rank for trait in pair_traits(open_export("demo_export"), 0, 1, clusters=2)]
    [1, 2]
    """
    settings = Settings(gamma, clusters, images, resamples, shown, seed)
    wanted = Wanted(export, read_index(export), settings, pairs=[(a, b)], attributes=attributes)
    return wanted.traits(kind, a, b, evidence)


def both_ways(
    export: Export, one: str, other: str, settings: Settings = DEFAULT, attributes: str | None = None
) -> list[Trait]:
    """The traits of a pair one way, the other way, and those that the two share.

    Args:
        export: as of `pair_traits`.
        one, other: classes by name or index.
        settings: how.
        attributes: as of `pair_traits`.

    Raises:
        QueryError: there is no such class or column, or no image of one class is compared with the other. ExportError:
            as of `pair_traits`.
    """
    names = export.manifest.classes
    a, b = (class_index(names, name, "--pair") for name in (one, other))
    index = read_index(export)
    if (a, b) not in index.pairs and (b, a) not in index.pairs:
        known = sorted({names[there] for pair in index.pairs if a in pair for there in pair if there != a})
        compared = f"; {names[a]} is compared with {', '.join(known[:MAX_NAMED])}" if known else ""
        raise QueryError(
            f"--pair: {names[a]!r} and {names[b]!r} are no references of each other's images, so that there is no "
            f"evidence for one over the other{compared}"
        )
    wanted = Wanted(export, index, settings, [(a, b)], attributes=attributes)
    kinds: list[tuple[Kind, int, int]] = [("pair", a, b), ("pair", b, a), ("shared", min(a, b), max(a, b))]
    return [trait for kind in kinds for trait in wanted.traits(*kind)]


def all_traits(
    export: Export,
    settings: Settings = DEFAULT,
    attributes: str | None = None,
    watch: Watch = lambda items, what: items,
) -> list[Trait]:
    """The traits of all pairs that occur, both directions and shared, and of all classes against all their references.

    The export is read once; what is needed lies in a temporary file, and is taken pair by pair.

    Args:
        export: as of `pair_traits`.
        settings: how.
        attributes: as of `pair_traits`.
        watch: called with what there is to do, and a word for it; gives it back one by one, and may show how far it is.

    Returns:
        In the order of the table `traits`: by a, kind, b, rank.

    Raises:
        ExportError, QueryError: as of `pair_traits`.
    """
    index = read_index(export)
    wanted = Wanted(export, index, settings, [*index.pairs], [*index.classes], attributes, watch)
    tasks: list[tuple[Kind, int, int | None]] = [("class", a, None) for a in index.classes]
    tasks += [("pair", a, b) for a, b in index.pairs]
    # Of a pair and its reverse once.
    tasks += [("shared", a, b) for a, b in sorted({(min(pair), max(pair)) for pair in index.pairs})]
    tasks.sort(key=lambda task: (task[1], task[0], task[2] or 0))
    return [trait for task in watch(tasks, "traits") for trait in wanted.traits(*task)]


def trait_table(traits: Sequence[Trait], classes: Sequence[str]) -> pa.Table:
    """The table `traits`.

    Args:
        traits: in the order of its lines.
        classes: names, of the export's manifest.
    """
    return pa.Table.from_pylist([_line(trait, classes) for trait in traits], TRAITS)


def _line(trait: Trait, classes: Sequence[str]) -> dict[str, Any]:
    line = asdict(trait)
    for column, name in COLUMNS.items():
        line[column] = line.pop(name)
    names = {"name": classes[trait.a], "reference_name": None if trait.b is None else classes[trait.b]}
    return {**line, **names, "cells": [cell._asdict() for cell in trait.cells]}


class Wanted:
    """Images of some pairs and classes, their candidate cells at hand.

    Args:
        export: with patches and a contrast basis.
        index: of its images.
        settings: how traits are found.
        pairs: ordered pairs; their reverses are looked at, too.
        classes: to be compared with all their references.
        attributes: a column of the user's own, or None.
        watch: as of `all_traits`.

    Raises:
        ExportError: the export has no patches or no basis. QueryError: it has no such column.
    """

    def __init__(
        self,
        export: Export,
        index: Index,
        settings: Settings,
        pairs: Sequence[tuple[int, int]] = (),
        classes: Sequence[int] = (),
        attributes: str | None = None,
        watch: Watch = lambda items, what: items,
    ) -> None:
        self._settings, self._index = settings, index
        both = {way for a, b in pairs for way in ((a, b), (b, a))} & index.pairs.keys()
        self._of_pair = {pair: spread(index.pairs[pair], settings.images) for pair in both}
        self._of_class = {a: spread(index.classes[a], settings.images) for a in classes}
        places = np.unique(np.concatenate([[], *self._of_pair.values(), *self._of_class.values()]).astype(np.int64))
        # A class's images side by side: those of a pair are two short stretches of the file.
        places = places[np.lexsort((places, index.targets[places]))]
        self._slots = np.full(len(index.rows), -1)
        self._slots[places] = np.arange(len(places))
        rows = index.rows[places]
        self._images = gather(export, rows, watch)
        self._part_names = export.part_names if self._images["parts"].size else ()
        self._attributes = None if attributes is None else read_attributes(export, attributes, rows)

    def traits(self, kind: Kind, a: int, b: int | None, evidence: Evidence | None = None) -> list[Trait]:
        """The traits of one of the pairs or classes.

        Args:
            kind: of the traits.
            a, b: the classes; b is None for those of a class.
            evidence: as of `pair_traits`.
        """
        own, others = self._places(a, b)
        # Of a pair that occurs one way alone, the traits of the other way have no image.
        if not len(own) and kind != "shared":
            return []
        places = np.concatenate([own, others])
        images = self._images[self._slots[places]]
        if evidence is None:
            found = self._evidence(kind, images["basis"], places, a, b)
        else:
            found = np.asarray(evidence(images["row"], images["cells"]))
        there = (images["cells"] >= 0) & np.isfinite(images["features"]).all(2)
        attributes = self._attributes
        looked = Looked(
            rows=images["row"],
            own=np.arange(len(places)) < len(own),
            cells=images["cells"],
            features=images["features"],
            evidence=np.where(there, found, 0).clip(min=0).astype(np.float64),
            parts=images["parts"] if images["parts"].size else None,
            inside=images["inside"],
            part_names=self._part_names,
            attributes=[] if attributes is None else [attributes[row] for row in images["row"].tolist()],
        )
        return find_traits(looked, kind, a, b, self._settings)

    def _places(self, a: int, b: int | None) -> tuple[Places, Places]:
        none = np.empty(0, np.int64)
        if b is None:
            return self._of_class.get(a, none), none
        return self._of_pair.get((a, b), none), self._of_pair.get((b, a), none)

    def _evidence(
        self, kind: Kind, basis: NDArray[np.float32], places: Places, a: int, b: int | None
    ) -> NDArray[np.float32]:
        """w of each candidate cell, (n, P), before relu; see docs/method.md."""
        references = self._index.references[places]
        if b is None:
            present = (references >= 0)[..., None]
            # Of an image without references M_A alone.
            for_b = np.where(present, basis[:, 1:], 0).sum(1) / present.sum(1).clip(min=1)
            for_a = basis[:, 0]
        else:
            classes = np.concatenate([self._index.targets[places, None], references], axis=1)
            for_a, for_b = (basis[np.arange(len(basis)), (classes == one).argmax(1)] for one in (a, b))
        found: NDArray[np.float32] = for_a - (-1.0 if kind == "shared" else self._settings.gamma) * for_b
        return found
