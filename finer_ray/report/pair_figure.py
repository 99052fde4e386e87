"""Pair figure: a photo of each of two classes, what tells one from the other, and where else it is seen."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from finer_ray.errors import ExportError
from finer_ray.images.transform import Transform
from finer_ray.report.figure_file import check_figure, save_figure
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import try_rows
from finer_ray.saliency.registration import Registration
from finer_ray.store.reading import Export
from finer_ray.traits.trait import DEFAULT, Shown, Trait

# Pixels of the photos, times those of the model's input (but of `native`); side of a close-up, in cells.
ENLARGED, CLOSE_UP = 3, 3.2
CLOSE_UPS = (2, 3)
RING = "#ff9d2e"


@dataclass(frozen=True)
class Side:
    """One class of the pair, as it is drawn.

    Attributes:
        name, other: the class and the one that it is told from.
        trait: what tells it from the other, the first by rank.
        photos: of the trait's cells, each (H, W, 3) uint8, the strongest first.
        lit: (H, W) in [0, 1], where the first photo speaks for the class and against the other.
        cell: (height, width) of a cell, pixels of the photos.
        centres: (x, y) of the trait's cells, pixels of the photos.
    """

    name: str
    other: str
    trait: Trait
    photos: list[NDArray[np.uint8]]
    lit: NDArray[np.float32]
    cell: tuple[float, float]
    centres: list[tuple[float, float]]


def pair_figure(export: Export, traits: Sequence[Trait], path: Path, gamma: float = DEFAULT.gamma) -> None:
    """Draw what tells two classes from each other: a line for each class that has a trait against the other.

    Args:
        export: whose photos can be read again; those that cannot are left out.
        traits: of the pair, both ways, of kind pair; the first of each way is drawn.
        path: of the .svg, .pdf or .png file.
        gamma: that the traits were found with.

    Raises:
        ExportError: there is no trait of kind pair, or none of the photos of a class can be read again.
        QueryError: the path has another suffix.
    """
    check_figure(path)
    firsts = {(trait.a, trait.b): trait for trait in traits if trait.kind == "pair" and trait.rank == 1 and trait.cells}
    if not firsts:
        raise ExportError("no image of either class has evidence against the other: there is nothing to draw")
    sides = [_side(export, trait, gamma) for trait in firsts.values()]
    figure = Figure(figsize=(12.4, 0.75 + 4.35 * len(sides)), layout="constrained")
    figure.suptitle(_headline(sides), fontsize=17, fontweight="bold", parse_math=False)
    bands: Any = figure.subfigures(len(sides), 1, squeeze=False)
    for side, band in zip(sides, bands[:, 0], strict=True):
        _draw(side, band)
    save_figure(figure, path)


def _side(export: Export, trait: Trait, gamma: float) -> Side:
    read = dict(try_rows(export, [cell.row for cell in trait.cells], region=False, enlarged=ENLARGED))
    if lost := [reason for reason in read.values() if isinstance(reason, str)]:
        # Those that can be read again will do.
        trait = replace(trait, cells=tuple(cell for cell in trait.cells if not isinstance(read[cell.row], str)))
        if not trait.cells:
            raise ExportError(lost[0])
    photos = [found.image for cell in trait.cells if not isinstance(found := read[cell.row], str)]
    seen = (photos[0].shape[0], photos[0].shape[1])
    evidence = _evidence(export, trait, seen, gamma)
    grid = export.manifest.layout.grid
    transform = Transform(**export.manifest.transform)
    times = transform.enlarged(ENLARGED).size[0] // transform.size[0]
    here = export.manifest.layout.registration or Registration.stretched(transform.size, grid)
    names = export.manifest.classes
    return Side(
        name=names[trait.a],
        other=names[trait.b] if trait.b is not None else "",
        trait=trait,
        photos=photos,
        lit=evidence / max(float(evidence.max()), 1e-12),
        cell=(times * here.stride[0], times * here.stride[1]),
        centres=[centre(cell, grid[1], here, times) for cell in trait.cells],
    )


def _evidence(export: Export, trait: Trait, size: tuple[int, int], gamma: float) -> NDArray[np.float32]:
    """Of the class over the other in the first photo, (H, W), not negative."""
    row = trait.cells[0].row
    references = export.stored("references", [row])[0].tolist()
    [found] = export.contrast([row], gamma, references=[references.index(trait.b)], size=size)
    lit: NDArray[np.float32] = found
    return lit


def centre(cell: Shown, columns: int, here: Registration, times: int = ENLARGED) -> tuple[float, float]:
    """(x, y) of a cell's centre, pixels of the photo that is so many times enlarged."""
    y, x = divmod(cell.cell, columns)
    across, down = (
        times * (offset + stride * place + 0.5) - 0.5
        for place, offset, stride in zip((x, y), here.offset[::-1], here.stride[::-1], strict=True)
    )
    return across, down


def _headline(sides: Sequence[Side]) -> str:
    first = sides[0]
    parts = list(dict.fromkeys(side.trait.part for side in sides if side.trait.part))
    told = f": the {' and the '.join(parts)}" if parts else ""
    return "\n".join(textwrap.wrap(f"What tells {first.name} from {first.other}{told}", 80))


def _draw(side: Side, band: SubFigure) -> None:
    """A line: the photo, the same lit where it speaks for its class, and close-ups of the trait in other images."""
    down, across = CLOSE_UPS
    axes: Any = band.subplot_mosaic(
        [["photo", "lit", *(f"{line}{place}" for place in range(across))] for line in range(down)],
        gridspec_kw={"width_ratios": [down, down, *[1] * across]},
    )
    for axis in axes.values():
        axis.set_axis_off()
    axes["photo"].imshow(side.photos[0])
    axes["photo"].set_title(textwrap.fill(side.name, 34), fontsize=12, fontweight="bold", parse_math=False)
    axes["lit"].imshow(overlay(side.photos[0], side.lit, mode="hot"))
    axes["lit"].set_title(textwrap.fill(f"where it is not a {side.other}", 38), fontsize=11, parse_math=False)
    for name in ("photo", "lit"):
        axes[name].add_patch(Circle(side.centres[0], 1.3 * max(side.cell), fill=False, color=RING, linewidth=2.5))
    places = [axes[f"{line}{place}"] for line in range(down) for place in range(across)]
    for axis, photo, centre in zip(places, side.photos[1:], side.centres[1:], strict=False):
        axis.imshow(close_up(photo, centre, CLOSE_UP * max(side.cell)))
    axes[f"0{across // 2}"].set_title(_seen(side.trait), fontsize=11)


def _seen(trait: Trait) -> str:
    share = f"in {trait.prevalence_a:.0%} of {trait.images_a} images" if trait.prevalence_a is not None else ""
    return f"seen {share}; {trait.mass:.0%} of the evidence"


def close_up(photo: NDArray[np.uint8], centre: tuple[float, float], side: float) -> NDArray[np.uint8]:
    """A square of a photo around a place, moved inside where it would reach beyond an edge.

    Args:
        photo: (H, W, 3).
        centre: (x, y), pixels.
        side: of the square, pixels; at most that of the photo.
    """
    height, width = photo.shape[:2]
    wanted = int(min(round(side), height, width))
    left, top = (
        int(np.clip(round(place - wanted / 2), 0, extent - wanted))
        for place, extent in zip(centre, (width, height), strict=True)
    )
    return photo[top : top + wanted, left : left + wanted]
