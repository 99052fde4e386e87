"""Traits: what the cells with the most evidence have in common, over the images of a class or a pair of classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finer_ray.errors import QueryError
from finer_ray.traits.clusters import cluster, stability

Kind = Literal["pair", "shared", "class"]


class Shown(NamedTuple):
    """A cell that shows a trait.

    Attributes:
        row: of its image.
        cell: its place in the grid of maps, y * w + x.
        evidence: w there, see `Settings.gamma`.
    """

    row: int
    cell: int
    evidence: float


@dataclass(frozen=True)
class Trait:
    """A cluster of cells; the columns of the table `traits`, see docs/outputs.md.

    Attributes:
        kind: pair (what speaks for a and against b), shared (what speaks for both), or class.
        a, b: class indices; b is None for traits of a class against all its references.
        rank: from 1, by mass times prevalence.
        mass: share of all evidence, on both classes' images, that is the trait's, 0 to 1.
        prevalence_a, prevalence_b: share of the class's images with evidence at one of the trait's cells or more; None
            where no image of the class was looked at.
        stability: see `finer_ray.traits.clusters.stability`; None of a single image.
        images_a, images_b: how many images of each class were looked at.
        cells: those that show it, the strongest of each image, strongest first; of images of a, of kind shared of both.
        part: the part of the annotated ones on which most of its evidence lies; None where there is none.
        part_share: the share of its evidence that lies on that part.
        part_lift: part_share over the share of all cells of these images that show the part; 1 is chance.
        attribute: the text that goes along with the trait most, of those that the images have; None where none does.
        attribute_lift: the share of its evidence that lies on images with the attribute, over the share of images that
            have it; 1 is chance.
        text, text_score: the concept that fits best, and by how much, see `finer_ray.traits.texts`.
    """

    kind: Kind
    a: int
    b: int | None
    rank: int = 0
    mass: float = 0.0
    prevalence_a: float | None = None
    prevalence_b: float | None = None
    stability: float | None = None
    images_a: int = 0
    images_b: int = 0
    cells: tuple[Shown, ...] = ()
    part: str | None = None
    part_share: float | None = None
    part_lift: float | None = None
    attribute: str | None = None
    attribute_lift: float | None = None
    text: str | None = None
    text_score: float | None = None


@dataclass(frozen=True)
class Settings:
    """How traits are found.

    Raises:
        QueryError: gamma is not finite.

    Attributes:
        gamma: of w = relu(M_A - gamma M_B), which is what the cells weigh; at 1 it is the evidence for y^A - y^B, and
            what speaks for both cancels out.
        clusters: how many traits a pair has at most.
        images: of each class of a pair how many are looked at, at most; evenly spaced over its rows.
        resamples: draws of the bootstrap that gives the stability; 0: none, and no stability.
        shown: how many cells a trait names at most.
        seed: of k-means and of the bootstrap.
    """

    gamma: float = 1.0
    clusters: int = 6
    images: int = 500
    resamples: int = 20
    shown: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.gamma):
            raise QueryError(f"--gamma: {self.gamma} is no finite number")


DEFAULT = Settings()


@dataclass(frozen=True)
class Looked:
    """The candidate cells of some images: n images, P cells each.

    Attributes:
        rows: (n,) int64.
        own: (n,) bool, whether the image is one of A's (else of B's).
        cells: (n, P) int32, -1 where an image has fewer.
        features: (n, P, F), anything where there is no cell.
        evidence: (n, P) float64, not negative; 0 where there is no cell.
        parts: (n, h * w) uint8, the part that each cell of the grid shows, 0 for none; None where there are none.
        inside: (n,), how many cells of the grid are the image's own, where there are parts.
        part_names: of parts 1, 2, ...
        attributes: of each image; none where they were not asked for.
    """

    rows: NDArray[np.int64]
    own: NDArray[np.bool_]
    cells: NDArray[np.int32]
    features: NDArray[np.floating[Any]]
    evidence: NDArray[np.float64]
    parts: NDArray[np.uint8] | None = None
    inside: NDArray[np.integer[Any]] | None = None
    part_names: Sequence[str] = ()
    attributes: Sequence[frozenset[str]] = ()


def find_traits(looked: Looked, kind: Kind, a: int, b: int | None, settings: Settings) -> list[Trait]:
    """Cluster the cells that have evidence, and describe each cluster.

    Args:
        looked: the images and their cells.
        kind: of the traits.
        a, b: the classes.
        settings: how; its gamma has gone into the evidence.

    Returns:
        In the order of their ranks; without clusters that no image of A shows (or, of kind shared, none of B's). Images
        in another order give the same traits.
    """
    order = _by_content(looked.features)
    # Of images in this order, so that draws of the bootstrap do not depend on rows either.
    place, column = np.nonzero(looked.evidence[order])
    if not len(place):
        return []
    image = order[place]
    features, evidence = looked.features[image, column].astype(np.float32), looked.evidence[image, column]
    labels = cluster(features, evidence, settings.clusters, settings.seed)
    stable = stability(features, evidence, place, labels, settings.clusters, settings.resamples, settings.seed)
    found = []
    for label, value in enumerate(stable.tolist()):
        weights = np.zeros(looked.evidence.shape)
        own = np.flatnonzero(labels == label)
        weights[image[own], column[own]] = evidence[own]
        found.append(
            _described(looked, weights, Trait(kind, a, b, stability=None if np.isnan(value) else value), settings)
        )
    shown = sorted(filter(_score, found), key=lambda trait: (-_score(trait), trait.cells))
    return [replace(trait, rank=rank) for rank, trait in enumerate(shown, start=1)]


def _by_content(features: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """An order of images (n, P, F) that does not depend on their rows."""
    return np.array(sorted(range(len(features)), key=lambda image: features[image].tobytes()), np.int64)


def _described(looked: Looked, weights: NDArray[np.float64], trait: Trait, settings: Settings) -> Trait:
    """A trait with all but its rank.

    Args:
        looked: all images and cells.
        weights: (n, P) evidence at the trait's cells, 0 at others.
        trait: what is known of it.
        settings: how many cells are shown.
    """
    shows = weights.max(1) > 0
    prevalence = [float(shows[these].mean()) if these.any() else None for these in (looked.own, ~looked.own)]
    return replace(
        trait,
        mass=float(weights.sum() / looked.evidence.sum()),
        prevalence_a=prevalence[0],
        prevalence_b=prevalence[1],
        images_a=int(looked.own.sum()),
        images_b=int((~looked.own).sum()),
        cells=_strongest(looked, weights if trait.kind == "shared" else weights * looked.own[:, None], settings.shown),
        **_part(looked, weights),
        **_attribute(looked, weights.sum(1)),
    )


def _score(trait: Trait) -> float:
    """What traits are ranked by; what two classes share must be seen on both."""
    known = [value for value in (trait.prevalence_a, trait.prevalence_b) if value is not None]
    prevalence = min(known) if trait.kind == "shared" else trait.prevalence_a or 0.0
    return trait.mass * prevalence


def _strongest(looked: Looked, weights: NDArray[np.float64], count: int) -> tuple[Shown, ...]:
    """The cell with the most evidence of each image, the strongest images first."""
    column = weights.argmax(1)
    peak = weights.max(1)
    order = np.lexsort((looked.rows, -peak))[:count]
    return tuple(
        Shown(int(looked.rows[image]), int(looked.cells[image, column[image]]), float(peak[image]))
        for image in order
        if peak[image] > 0
    )


def _part(looked: Looked, weights: NDArray[np.float64]) -> dict[str, Any]:
    """part, part_share and part_lift; nothing where no cell of the trait shows a part."""
    if looked.parts is None or looked.inside is None or not looked.parts.any():
        return {}
    image, column = np.nonzero(weights)
    on = np.bincount(looked.parts[image, looked.cells[image, column]], weights[image, column], 256) / weights.sum()
    part = 1 + int(on[1:].argmax())
    if not on[part]:
        return {}
    chance = float((looked.parts == part).sum() / looked.inside.sum())
    name = looked.part_names[part - 1] if part <= len(looked.part_names) else f"part {part}"
    return {"part": name, "part_share": float(on[part]), "part_lift": float(on[part] / chance)}


def _attribute(looked: Looked, evidence: NDArray[np.float64]) -> dict[str, Any]:
    """attribute and attribute_lift: of the attribute with the largest difference between its share of evidence and its
    share of images; nothing where none is the larger for having it.

    Args:
        looked: the images.
        evidence: (n,) the trait's, by image.
    """
    best: dict[str, Any] = {}
    largest = 1e-9
    for name in sorted(set().union(*looked.attributes)):
        has = np.array([name in each for each in looked.attributes])
        share, chance = float(evidence[has].sum() / evidence.sum()), float(has.mean())
        if share - chance > largest:
            largest, best = share - chance, {"attribute": name, "attribute_lift": share / chance}
    return best
