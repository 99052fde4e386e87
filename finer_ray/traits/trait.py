"""Traits: what the cells with the most evidence have in common, over the images of a class or a pair of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        a, b: class indices; b is None for traits of a class against all its references.
        kind: pair (what speaks for a and against b), shared (what speaks for both), or class.
        rank: from 1, by mass times prevalence.
        mass: share of all evidence that is the trait's, 0 to 1.
        prevalence_a, prevalence_b: share of the class's images with evidence at one of the trait's cells or more; b's
            None where no image of b was looked at.
        stability: see `finer_ray.traits.clusters.stability`; None of a single image.
        images_a, images_b: how many images of each class were looked at.
        cells: those that show it, the strongest of each image, strongest first.
        part: the part of the annotated ones on which most of its evidence lies; None where there is none.
        part_share: the share of its evidence that lies on that part.
        part_lift: part_share over the share of all cells of these images that show the part; 1 is chance.
        attribute: the text that goes along with the trait most, of those that the images have; None where none does.
        attribute_lift: the share of its evidence that lies on images with the attribute, over the share of images that
            have it; 1 is chance.
        text, text_score: the concept that fits best, and by how much, see `finer_ray.traits.texts`.
    """

    a: int
    b: int | None
    kind: Kind
    rank: int
    mass: float
    prevalence_a: float
    prevalence_b: float | None
    stability: float | None
    images_a: int
    images_b: int
    cells: tuple[Shown, ...]
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

    Attributes:
        gamma: of w = relu(M_A - gamma M_B), which is what the cells weigh; None: the export's `saliency.gamma`.
        clusters: how many traits a pair has at most.
        images: of each class of a pair how many are looked at, at most; evenly spaced over its rows.
        resamples: draws of the bootstrap that gives the stability; 0: none, and no stability.
        shown: how many cells a trait names at most.
        seed: of k-means and of the bootstrap.
    """

    gamma: float | None = None
    clusters: int = 6
    images: int = 500
    resamples: int = 20
    shown: int = 9
    seed: int = 0


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
        part_names: of parts 1, 2, ...
        attributes: of each image; none where they were not asked for.
    """

    rows: NDArray[np.int64]
    own: NDArray[np.bool_]
    cells: NDArray[np.int32]
    features: NDArray[np.floating[Any]]
    evidence: NDArray[np.float64]
    parts: NDArray[np.uint8] | None = None
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
        In the order of their ranks; none where no cell has evidence.
    """
    image, column = np.nonzero(looked.evidence[(order := _by_content(looked.features))] > 0)
    image = order[image]
    if not len(image):
        return []
    evidence = looked.evidence[image, column]
    features = looked.features[image, column].astype(np.float32)
    labels = cluster(features, evidence, settings.clusters, settings.seed)
    # Of an image's place in the order of contents, so that the order of rows does not matter to the draws either.
    place = np.argsort(order)[image]
    stable = stability(features, evidence, place, labels, settings.clusters, settings.resamples, settings.seed)
    found = [_trait(looked, image, column, labels == label, kind, a, b, settings) for label in range(len(stable))]
    scored = sorted(zip(found, stable.tolist(), strict=True), key=lambda pair: _score(pair[0]), reverse=True)
    return [
        _replaced(trait, rank=rank, stability=None if np.isnan(value) else value)
        for rank, (trait, value) in enumerate(scored, start=1)
    ]
