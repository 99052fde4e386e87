"""Reading guide: what a map says, shown on one image of the export, and what its metrics mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_ray.metrics.table import REPORTED
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import read_photos
from finer_ray.report.site.image_pages import Shown
from finer_ray.store.reading import Export

# Images among which the guide chooses, and the gamma that it compares the baseline with.
LOOKED_AT, STRONG = 64, 2.0
# Of its maximum at gamma 0 an example keeps as much: where little is left, noise is.
KEPT = 1 / 3
QUALITY = 90
# By the beginning of a metric's name, what it means to somebody who has never seen one.
MEANINGS = {
    "localisation": "The share of the map's light that falls on the annotated object. A map that knows nothing has the "
    "share of the photo that the object covers.",
    "pointing_hit": "How often the brightest point of the map lies on the annotated object.",
    "rank_accuracy": "Of as many of the brightest pixels as the annotated object has, the share that lies on it.",
    "iou": "How well the map's outline and the object's cover each other, where the outline is drawn at the brightness "
    "that suits the image best: 1 is the same outline, and no map has less than the object's share of the photo.",
    "sparsity": "How few cells hold the map's light: 0 is spread evenly, near 1 all of it in one cell. It says nothing "
    "of whether they are the right ones.",
    "deletion_auc": "The brightest pixels are taken away first, and the model is asked again each time. If the map is "
    "right, it soon no longer recognises the class: low is good.",
    "insertion_auc": "The brightest pixels are put into an empty photo first. If the map is right, the model soon "
    "recognises the class: high is good.",
    "srg": "Pixels are taken away twice: the darkest first, which should cost little, and the brightest first, which "
    "should cost much. The difference: high is good, and 0 is what a map that knows nothing has.",
    "random_deletion_auc": "The deletion AUC of a map of noise: what a map must be below to say something.",
    "road": "Pixels are taken away, the darkest or the brightest first, and guessed from their neighbours, so that no "
    "edge gives away where they were. How much more the brightest cost: high is good, and 0 knows nothing.",
    "average_drop": "The photo is darkened where the map is dark. The part of its probability that the class loses: "
    "low means that the map kept what the model needs.",
    "increase": "How often the class becomes more probable when the photo is darkened where the map is dark.",
    "relative_drop": "The brightest few percent of the pixels are taken away. How much more this costs the class than "
    "its neighbours: high means that the map found what tells them apart.",
    "confidence_drop": "The brightest few percent of the pixels are taken away. The part of its probability that the "
    "class loses: high is good.",
}


@dataclass(frozen=True)
class Step:
    """One picture of the guide.

    Attributes:
        file: of the picture, in the report's assets.
        gamma: of the map.
        question: that the map answers.
        peak: the map's largest value.
    """

    file: str
    gamma: float
    question: str
    peak: float


@dataclass(frozen=True)
class Guide:
    """What the page is made of.

    Attributes:
        image: the line of `images` of the image that is shown; None where none can be.
        steps: its pictures, by gamma.
        meanings: title and meaning of each metric that the export has.
        references: names of the classes that the image is compared with.
        size: (height, width) of the pictures.
    """

    image: dict[str, Any] | None
    steps: list[Step]
    meanings: list[tuple[str, str]]
    references: list[str]
    size: tuple[int, int]


def reading_guide(export: Export, shown: Sequence[Shown], folder: Path) -> Guide:
    """Choose an image, and write its pictures as reading-0.jpg and so on.

    The image is the one whose light moves furthest from gamma 0 to gamma 2: there it is seen best what the comparison
    does. It is one of those that are predicted right, or else as the target, and that keep a third of their maximum,
    where there are any.

    Args:
        export: any.
        shown: images that have a page.
        folder: that gets the pictures.
    """
    present = {name for name in REPORTED if export.metrics[name].null_count < export.metrics.num_rows}
    meanings = _meanings(present)
    row = _instructive(export, [image.line for image in shown if not image.problem])
    if row is None:
        return Guide(None, [], meanings, [], (0, 0))
    line = next(image.line for image in shown if image.line["row"] == row)
    names = export.manifest.classes
    references = [names[index] for index in line["references"] if index >= 0]
    [photo] = read_photos(export, [row])
    steps = []
    for place, gamma in enumerate(sorted({0.0, float(export.manifest.config["saliency"]["gamma"]), STRONG})):
        heat = _contrast(export, row, gamma, photo.shape[:2])
        file = f"reading-{place}.jpg"
        drawn = (overlay(photo, heat) * 255).round().astype(np.uint8)
        Image.fromarray(drawn).save(folder / file, quality=QUALITY)
        steps.append(Step(file, gamma, question(names[line["target"]], references, gamma), float(heat.max())))
    return Guide(line, steps, meanings, references, (photo.shape[0], photo.shape[1]))


def question(target: str, references: Sequence[str], gamma: float) -> str:
    """What a map answers, in the words of the pages' script.

    >>> question("robin", ["finch", "wren"], 0.6)
    'What makes it robin rather than finch or wren?'
    >>> question("robin", ["finch", "wren"], 0)
    'What speaks for robin?'
    """
    if gamma == 0 or not references:
        return f"What speaks for {target}?"
    others = " or ".join(filter(None, [", ".join(references[:-1]), references[-1]]))
    if gamma < 0:
        return f"What do {target} and {others} have in common?"
    return f"What makes it {target} rather than {others}?"


def _meanings(present: set[str]) -> list[tuple[str, str]]:
    """Words and meaning of each metric that there is; once for those that differ in a share of pixels alone."""
    found = {}
    for beginning, meaning in MEANINGS.items():
        names = sorted(name for name in present if name.startswith(beginning))
        if names:
            found[REPORTED[names[0]].words.partition(" at ")[0]] = meaning
    return list(found.items())


def _instructive(export: Export, lines: Sequence[dict[str, Any]]) -> int | None:
    """The row of the image whose light moves furthest; None where no map can be compared."""
    if not export.manifest.layout.basis:
        return None
    lines = [line for line in lines if any(index >= 0 for index in line["references"])]
    of_target = [line for line in lines if line["predicted"] == line["target"]]
    right = [line for line in of_target if line["label"] == line["predicted"]]
    lines = (right or of_target or lines)[:LOOKED_AT]
    moves = {line["row"]: _move(export, line["row"]) for line in lines}
    bright = {row: moved for row, (moved, kept) in moves.items() if kept >= KEPT}
    moved = bright or {row: moved for row, (moved, _) in moves.items()}
    furthest = max(moved, key=lambda row: moved[row], default=None)
    return furthest if furthest is not None and moved[furthest] > 0 else None


def _move(export: Export, row: int) -> tuple[float, float]:
    """From gamma 0 to gamma 2, the share of a map's light that goes elsewhere, and that of its maximum that is kept; 0
    twice where one of the maps is dark."""
    before, after = (_contrast(export, row, gamma) for gamma in (0.0, STRONG))
    if not before.max() > 0 or not after.max() > 0:
        return 0.0, 0.0
    moved = np.abs(before / before.sum() - after / after.sum()).sum() / 2
    return float(moved), float(after.max() / before.max())


def _contrast(export: Export, row: int, gamma: float, size: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    """The contrast as the job aggregates and weighs, zero beyond the image's own grid."""
    saliency = export.manifest.config["saliency"]
    [found] = export.contrast(
        [row],
        gamma,
        aggregation=saliency["aggregation"],
        weighting=saliency["weighting"],
        size=None if size is None else (size[0], size[1]),
    )
    known: NDArray[np.float32] = np.nan_to_num(found)
    return known
