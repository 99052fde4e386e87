"""Which pairs of classes get a page: those that are confused most, told apart best, and most alike."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.pairs.table import NAME, pairs_table
from finer_ray.store import derived
from finer_ray.store.reading import Export
from finer_ray.traits.images import Index
from finer_ray.traits.run import COLUMNS, Wanted
from finer_ray.traits.trait import Kind, Settings, Shown, Trait

# Images of a class at which the support of a trait counts half.
HALF_SUPPORT = 5
# The traits' stability is not shown, and costs 20 times the time.
SETTINGS = Settings(resamples=0)
Both = tuple[int, int]
# The traits of a kind of two classes, ranked.
Traits = Callable[[Kind, int, int], list[Trait]]


@dataclass(frozen=True)
class Pair:
    """Two classes of which each has an image: labelled so, or without a label and with that target.

    Attributes:
        a, b: class indices, a < b.
        confused: how many images are labelled a and predicted b, and the other way; None where no image has the label.
        compared: how many images of a are compared with b, and the other way.
        cosine: of their weights in the classifier; None where it is not known.
        most, least: rows of the images with the most and the least evidence for a over b, and for b over a.
        telling: see `telling`.
    """

    a: int
    b: int
    confused: tuple[int | None, ...]
    compared: tuple[int, ...]
    cosine: float | None
    most: tuple[list[int], ...]
    least: tuple[list[int], ...]
    telling: float = 0.0

    @property
    def classes(self) -> Both:
        return self.a, self.b

    @property
    def mistakes(self) -> int:
        return sum(count or 0 for count in self.confused)


def choose_pairs(export: Export, index: Index, count: int) -> tuple[list[Pair], Traits]:
    """In turn the most confused, the most telling and the most similar pair, until there are so many.

    Args:
        export: any; one without a current table `pairs` or `traits` is computed from, not written to.
        index: of its images.
        count: of pairs, at most.

    Returns:
        The pairs, the most telling first, and their traits. Without traits of an earlier run only the foremost pairs
        by confusions, cosine and images are looked at for telling ones.
    """
    if count == 0:
        return [], no_traits
    known = _known_pairs(export)
    confused = sorted(filter(lambda pair: pair.mistakes, known), key=lambda pair: (-pair.mistakes, pair.classes))
    alike = sorted(
        (pair for pair in known if pair.cosine is not None), key=lambda pair: (-(pair.cosine or 0), pair.classes)
    )
    seen = sorted(known, key=lambda pair: (-min(pair.compared), -sum(pair.compared), pair.classes))
    pool = list({pair.classes: pair for pair in chain(confused[:count], alike[:count], seen[:count])}.values())
    traits = _traits(export, index, known, pool)
    scored = [_scored(pair, traits) for pair in (known if derived.is_current(export, "traits") else pool)]
    told = sorted((pair for pair in scored if pair.telling > 0), key=lambda pair: (-pair.telling, pair.classes))
    chosen = in_turn([_classes(pairs) for pairs in (confused, told, alike)], count) or _classes(seen)[:count]
    by_classes = {pair.classes: pair for pair in known} | {pair.classes: pair for pair in scored}
    found = [by_classes[classes] for classes in chosen]
    return sorted(found, key=lambda pair: (-pair.telling, -pair.mistakes, -(pair.cosine or 0), pair.classes)), traits


def tells(trait: Trait) -> bool:
    """Whether a trait is more frequent in its class than in the other; where no image of the other is known it may."""
    return trait.prevalence_a is not None and (trait.prevalence_b is None or trait.prevalence_a > trait.prevalence_b)


def telling(ways: Sequence[Trait | None]) -> float:
    """How well two classes are told apart by each way's first trait that `tells`, 0 to 1: the mean over both ways of

        share of the evidence x (prevalence in the class - prevalence in the other) x n / (n + 5)

    with n the smaller number of images looked at; 0 of a way that has no trait, or no image of the other class.

    >>> telling([Trait("pair", 0, 1, mass=0.5, prevalence_a=1.0, prevalence_b=0.5, images_a=5, images_b=9), None])
    0.0625
    """
    found = 0.0
    for trait in ways:
        if trait is not None and trait.prevalence_a is not None and trait.prevalence_b is not None:
            support = min(trait.images_a, trait.images_b)
            found += trait.mass * (trait.prevalence_a - trait.prevalence_b) * support / (support + HALF_SUPPORT)
    return found / len(ways)


def in_turn(lists: Iterable[Sequence[Both]], count: int) -> list[Both]:
    """The first of each list, then the second of each, and so on; none twice, at most so many.

    >>> in_turn([[(0, 1), (0, 2)], [(0, 1)], [(3, 4)]], 3)
    [(0, 1), (3, 4), (0, 2)]
    """
    turns = (one for turn in zip_longest(*lists) for one in turn if one is not None)
    return list(dict.fromkeys(turns))[:count]


def no_traits(kind: Kind, a: int, b: int) -> list[Trait]:
    """Of an export without patches or without a basis."""
    return []


def _classes(pairs: Sequence[Pair]) -> list[Both]:
    return [pair.classes for pair in pairs]


def _scored(pair: Pair, traits: Traits) -> Pair:
    ways = [next(filter(tells, traits("pair", *way)), None) for way in (pair.classes, pair.classes[::-1])]
    return replace(pair, telling=telling(ways))


def _known_pairs(export: Export) -> list[Pair]:
    """Pairs that are compared or confused, of classes that have images."""
    images = export.images
    table = derived.read(export, NAME) if derived.is_current(export, NAME) else pairs_table(export)
    lines = {
        (line["class"], line["reference"]): line for line in table.drop_columns(["parts", "part_cells"]).to_pylist()
    }
    taken = _taken(images)
    labelled = set(pc.unique(images["label"].drop_null()).to_pylist())
    shown = set(pc.unique(pc.coalesce(images["label"], images["target"])).to_pylist())
    ways = {(min(way), max(way)) for way in chain(lines, taken) if way[0] != way[1]}
    return [_pair(way, lines, taken, labelled) for way in sorted(ways) if shown.issuperset(way)]


def _pair(classes: Both, lines: dict[Both, dict[str, Any]], taken: dict[Both, int], labelled: set[int]) -> Pair:
    ways = (classes, classes[::-1])
    there = [lines.get(way, {}) for way in ways]
    cosine = next((line["cosine"] for line in there if line.get("cosine") is not None), None)
    return Pair(
        *classes,
        confused=tuple(taken.get(way, 0) if way[0] in labelled else None for way in ways),
        compared=tuple(line.get("images", 0) for line in there),
        cosine=cosine,
        most=tuple(line.get("most") or [] for line in there),
        least=tuple(line.get("least") or [] for line in there),
    )


def _taken(images: pa.Table) -> dict[Both, int]:
    """How many images of each label are predicted as each other class."""
    wrong = images.filter(pc.fill_null(pc.not_equal(images["label"], images["predicted"]), False))
    counts = wrong.group_by(["label", "predicted"]).aggregate([("row", "count")])
    return {(line["label"], line["predicted"]): line["row_count"] for line in counts.to_pylist()}


def _traits(export: Export, index: Index, known: Sequence[Pair], pool: Sequence[Pair]) -> Traits:
    """Of the table where it is current, else computed for the pool; none where the export lacks what it takes."""
    if derived.is_current(export, "traits"):
        return _from_table(derived.read(export, "traits"), _classes(known))
    layout = export.manifest.layout
    if not (layout.patches and layout.basis):
        return no_traits
    wanted = Wanted(export, index, SETTINGS, _classes(pool))
    found: dict[tuple[Kind, int, int], list[Trait]] = {}

    def computed(kind: Kind, a: int, b: int) -> list[Trait]:
        if (kind, a, b) not in found:
            found[kind, a, b] = wanted.traits(kind, a, b)
        return found[kind, a, b]

    return computed


def _from_table(table: pa.Table, pairs: Sequence[Both]) -> Traits:
    count = 1 + max((b for _, b in pairs), default=0)
    keys = pc.add(pc.multiply(pc.cast(table["class"], pa.int64()), count), pc.cast(table["reference"], pa.int64()))
    wanted = pa.array([way[0] * count + way[1] for pair in pairs for way in (pair, pair[::-1])], pa.int64())
    kept = pc.and_(pc.fill_null(pc.is_in(keys, wanted), False), pc.less(pc.fill_null(table["reference"], count), count))
    found: dict[tuple[str, int, int], list[Trait]] = {}
    for line in table.filter(kept).to_pylist():
        trait = _trait(line)
        found.setdefault((line["kind"], line["class"], line["reference"]), []).append(trait)
    return lambda kind, a, b: sorted(found.get((kind, a, b), []), key=lambda trait: trait.rank)


def _trait(line: dict[str, Any]) -> Trait:
    names = {field.name for field in fields(Trait)}
    values = {COLUMNS.get(column, column): value for column, value in line.items()}
    cells = tuple(Shown(cell["row"], cell["cell"], cell["evidence"]) for cell in line["cells"])
    return Trait(**{name: value for name, value in values.items() if name in names} | {"cells": cells})
