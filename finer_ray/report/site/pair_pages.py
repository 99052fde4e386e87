"""Pair pages: what each shows of two classes, chosen from the tables; pictures and live maps are made elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.report.site.pair_choice import Pair, Traits, choose_pairs, tells
from finer_ray.saliency.parts import one_id_a_name
from finer_ray.store.reading import Export
from finer_ray.traits.images import Index, read_index, spread
from finer_ray.traits.trait import Kind, Trait

# Traits of each kind, crops of each class of a trait, images of each list.
ROWS: dict[Kind, int] = {"pair": 3, "shared": 2}
CROPS = 4
LISTED = 3
# Traits with less of the evidence are not shown.
LEAST_MASS = 0.05
# Images of a class among which a trait's like is looked for, and those that its mean map is taken over.
SEARCHED, COMPARED = 24, 500
NO_PLACES = np.empty(0, np.int64)


@dataclass(frozen=True)
class Place:
    """A cell of an image, or an image alone.

    Attributes:
        row: of the image.
        cell: y * w + x in the grid of maps; None where no cell is meant.
        number: of its file, pairs/A-B-NUMBER.jpg.
        mistaken: whether the image is labelled otherwise than with the class that it is shown for.
    """

    row: int
    cell: int | None
    number: int
    mistaken: bool = False


@dataclass(frozen=True)
class TraitRow:
    """A trait with its crops.

    Attributes:
        trait: as the tables have it.
        name: its part, attribute or text, or its rank.
        crops: by class index, places that show it, or in the other class its like.
        more: further traits of the same name, which are not shown.
        like: how the like was found: `part`, the same part in the other's photos; `features`, the places among the
            candidates whose features are most similar; None where both classes show the trait itself.
    """

    trait: Trait
    name: str
    crops: dict[int, list[Place]]
    more: list[Trait]
    like: str | None

    @property
    def mistaken(self) -> bool:
        """Whether one of its crops is."""
        return any(place.mistaken for places in self.crops.values() for place in places)


@dataclass(frozen=True)
class PairPage:
    """What a pair's page shows.

    Attributes:
        pair: the two classes.
        groups: the traits of a over b, of b over a, and those that both share, by (kind, class that they speak for).
        heroes: by class index the photo that stands for it, and its trait's cell.
        told: name and share of the evidence, mean over both ways, of what tells them apart; None without traits.
        compared: by class the rows of its images that are compared with the other, at most COMPARED, evenly spaced.
        wrong: by labelled class the rows predicted as the other, the surest first.
        right: by class the rows labelled and predicted so, the surest first.
    """

    pair: Pair
    groups: dict[tuple[Kind, int], list[TraitRow]]
    heroes: dict[int, Place]
    told: tuple[str | None, float] | None
    compared: dict[int, list[int]]
    wrong: dict[int, list[int]]
    right: dict[int, list[int]]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.pair.a}-{self.pair.b}"

    @property
    def places(self) -> list[Place]:
        """Its crops."""
        return [
            place for rows in self.groups.values() for row in rows for crops in row.crops.values() for place in crops
        ]

    @cached_property
    def shown(self) -> list[int]:
        """Rows whose photos and live maps it shows."""
        lists = [*self.wrong.values(), *self.right.values(), *self.pair.most, *self.pair.least]
        return sorted({place.row for place in self.heroes.values()} | {row for rows in lists for row in rows})


def pair_pages(export: Export, pairs: int) -> list[PairPage]:
    """The pages of an export's pairs, the most telling first.

    Args:
        export: any.
        pairs: how many at most.
    """
    if not pairs or not len(export.images):
        return []
    index = read_index(export)
    chosen, traits = choose_pairs(export, index, pairs)
    images = _Images(export, index, _kinds(export))
    return [_page(images, pair, traits) for pair in chosen]


def wanted_rows(pages: Sequence[PairPage]) -> list[int]:
    """Rows that pair pages link to, so that they get a page, too."""
    return sorted({row for page in pages for row in page.shown})


def trait_name(trait: Trait) -> str | None:
    """What a trait is called: its part, else its attribute, else its text; None where it has none."""
    return trait.part or trait.attribute or trait.text


def told_by(ways: Sequence[Sequence[Trait]]) -> tuple[str | None, float] | None:
    """The name with the most evidence, summed over the traits that bear it, and its share: the mean over the ways that
    have traits. Where no trait has a name, the first trait's share.

    >>> told_by([[Trait("pair", 0, 1, mass=0.5, part="bill"), Trait("pair", 0, 1, mass=0.25, part="bill")], []])
    ('bill', 0.75)
    """
    known = [way for way in ways if way]
    if not known:
        return None
    shares: dict[str, float] = {}
    for way in known:
        for trait in way:
            if (name := trait_name(trait)) is not None:
                shares[name] = shares.get(name, 0.0) + trait.mass / len(known)
    if not shares:
        return None, sum(way[0].mass for way in known) / len(known)
    best = min(shares, key=lambda name: (-shares[name], name))
    return best, shares[best]


@dataclass(frozen=True)
class _Images:
    """Images of an export.

    Attributes:
        index: their targets and references.
        kinds: (n,) what each shows, by the index's places: its label, or its target where it has none.
    """

    export: Export
    index: Index
    kinds: NDArray[np.int64]

    def kind(self, row: int) -> int:
        return int(self.kinds[np.searchsorted(self.index.rows, row)])

    def target(self, row: int) -> int:
        return int(self.index.targets[np.searchsorted(self.index.rows, row)])

    def compared(self, one: int, other: int) -> NDArray[np.int64]:
        """Places of a class's images that are compared with another."""
        return self.index.pairs.get((one, other), NO_PLACES)

    def some(self, one: int, other: int) -> NDArray[np.int64]:
        """Rows of some images that show a class, of those that are compared with the other where there are any."""
        every = np.flatnonzero(self.kinds == one)
        among = np.intersect1d(every, self.compared(one, other))
        rows: NDArray[np.int64] = self.index.rows[spread(among if len(among) else every, SEARCHED)]
        return rows


def _kinds(export: Export) -> NDArray[np.int64]:
    images = export.images
    order = np.argsort(images["row"].to_numpy())
    found: NDArray[np.int64] = pc.coalesce(images["label"], images["target"]).to_numpy()[order].astype(np.int64)
    return found


@dataclass(frozen=True)
class _Class:
    """Images of one class in which a trait's like is looked for; read when it is."""

    export: Export
    rows: NDArray[np.int64]

    @cached_property
    def patches(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self.export.patches(self.rows)

    @cached_property
    def parts(self) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = one_id_a_name(self.export.part_names)[self.export.parts(self.rows)]
        return found

    def with_part(self, name: str) -> list[tuple[int, int]]:
        """Row and cell in the middle of a part, of each image that shows it."""
        part, found = 1 + self.export.part_names.index(name), []
        for row, grid in zip(self.rows.tolist(), self.parts, strict=True):
            places = np.argwhere(grid == part)
            if len(places):
                y, x = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
                found.append((row, int(y * grid.shape[1] + x)))
        return found

    def alike(self, direction: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Row and cell with the features most similar to a direction (F,), the most similar image first."""
        cells, features = self.patches
        similar = np.where(cells >= 0, np.nan_to_num(features) @ direction, -np.inf)
        best = similar.argmax(1)
        peak = similar[np.arange(len(best)), best]
        order = [image for image in np.argsort(-peak, kind="stable").tolist() if np.isfinite(peak[image])]
        return [(int(self.rows[image]), int(cells[image, best[image]])) for image in order]


def _page(images: _Images, pair: Pair, traits: Traits) -> PairPage:
    numbers, (a, b), both = count(), pair.classes, ((pair.a, pair.b), (pair.b, pair.a))
    classes = {one: _Class(images.export, images.some(one, other)) for one, other in both}
    groups: dict[tuple[Kind, int], list[TraitRow]] = {}
    ways: list[tuple[Kind, int, int]] = [("pair", a, b), ("pair", b, a), ("shared", a, b)]
    for kind, one, other in ways:
        kept = _kept(traits(kind, one, other), kind)
        groups[kind, one] = [_trait_row(images, same, one, other, classes[other], numbers) for same in kept]
    heroes = {}
    for place, (one, other) in enumerate(both):
        rows = [row for row in pair.most[place] if images.kind(row) == one] + classes[one].rows.tolist()
        row, cell = _hero(groups, one, other) or (rows[0], None)
        heroes[one] = Place(row, cell, next(numbers))
    wrong = {one: _surest(images.export, one, other) for one, other in both}
    right = {one: _surest(images.export, one, one) for one in pair.classes}
    told = told_by([[*filter(tells, traits("pair", *way))] for way in both])
    compared = {one: images.index.rows[spread(images.compared(one, other), COMPARED)].tolist() for one, other in both}
    return PairPage(pair, groups, heroes, told, compared, wrong, right)


def _kept(traits: Sequence[Trait], kind: Kind) -> list[list[Trait]]:
    """Those that are shown: of a pair's what tells the classes apart; traits of one name together."""
    named: dict[Any, list[Trait]] = {}
    for trait in traits:
        if trait.mass >= LEAST_MASS and trait.cells and (kind == "shared" or tells(trait)):
            named.setdefault(trait_name(trait) or trait.rank, []).append(trait)
    return list(named.values())[: ROWS[kind]]


def _trait_row(
    images: _Images, same: Sequence[Trait], one: int, other: int, others: _Class, numbers: Iterator[int]
) -> TraitRow:
    """The first of some traits of one name with its crops: those of `one` show it; those of `other` too where it is
    shared, else its like."""
    trait, *more = same
    own = [(cell.row, cell.cell) for cell in trait.cells]
    if trait.kind == "shared":
        like = None
        found = {side: [place for place in own if images.target(place[0]) == side] for side in (one, other)}
    else:
        like = "part" if trait.part is not None and others.export.manifest.layout.parts else "features"
        found = {one: own, other: _like(trait, like, others)}
    crops = {}
    for side, places in found.items():
        marked = sorted((images.kind(row) != side, place) for place, (row, _) in enumerate(places))[:CROPS]
        crops[side] = [Place(*places[place], next(numbers), mistaken) for mistaken, place in marked]
    return TraitRow(trait, trait_name(trait) or f"trait {trait.rank}", crops, more, like)


def _like(trait: Trait, how: str, others: _Class) -> list[tuple[int, int]]:
    """Where the other class's photos have the trait's part, or what is most similar to it."""
    if how == "part" and trait.part in others.export.part_names:
        return others.with_part(trait.part)
    wanted = np.array([cell.cell for cell in trait.cells])
    cells, features = others.export.patches([cell.row for cell in trait.cells])
    mean = features[cells == wanted[:, None]].mean(0)
    return others.alike(mean)


def _hero(groups: dict[tuple[Kind, int], list[TraitRow]], one: int, other: int) -> tuple[int, int | None] | None:
    """The image of a class that shows its first trait most; for a class without a trait the like of the other's."""
    for group in (groups["pair", one], groups["pair", other]):
        if group and group[0].crops[one] and not group[0].crops[one][0].mistaken:
            place = group[0].crops[one][0]
            return place.row, place.cell
    return None


def _surest(export: Export, label: int, predicted: int) -> list[int]:
    """Rows with a label and a prediction, the surest first."""
    images = export.images
    asked = pc.and_(pc.equal(images["label"], label), pc.equal(images["predicted"], predicted))
    found = images.select(["row", "predicted_probability"]).filter(pc.fill_null(asked, False))
    ranked = found.sort_by([("predicted_probability", "descending"), ("row", "ascending")])
    rows: list[int] = ranked["row"][:LISTED].to_pylist()
    return rows
