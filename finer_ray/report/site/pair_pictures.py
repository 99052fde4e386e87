"""Pictures of pair pages: crops at one scale, and the photos that stand for the classes; photos are read once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_ray.errors import FinerRayError
from finer_ray.report.overlay import overlay
from finer_ray.report.pair_figure import CLOSE_UP, ENLARGED, centre, close_up
from finer_ray.report.photos import try_rows
from finer_ray.report.site.pair_pages import PairPage, Place
from finer_ray.saliency.registration import Registration
from finer_ray.store.grids import own_grids
from finer_ray.store.reading import Export
from finer_ray.traits.trait import DEFAULT, Shown

QUALITY = 88
# Pixels along the longest side, at most.
CROP, HERO = 160, 720


class Picture(NamedTuple):
    """A picture of a page.

    Attributes:
        page: of the pair.
        place: what it shows.
        whole: the photo and the same lit where it speaks for its class, not a crop.
    """

    page: PairPage
    place: Place
    whole: bool


def draw_pictures(export: Export, pages: Sequence[PairPage], folder: Path) -> set[str]:
    """Write A-B-NUMBER.jpg of each crop and of each class's photo, and A-B-NUMBER-lit.jpg of that where it speaks for
    its class.

    Args:
        export: whose photos are read again, one at a time; those that cannot be are left out.
        pages: of its pairs.
        folder: that gets the files.

    Returns:
        The names of the files that were written.
    """
    wanted: dict[int, list[Picture]] = {}
    for picture in _pictures(pages):
        wanted.setdefault(picture.place.row, []).append(picture)
    written = set()
    for row, photo in _photos(export, sorted(wanted)):
        for picture in wanted[row]:
            for end, drawn in _drawn(export, picture, photo):
                name = f"{picture.page.name}-{picture.place.number}{end}.jpg"
                drawn.save(folder / name, quality=QUALITY)
                written.add(name)
    return written


def _pictures(pages: Sequence[PairPage]) -> Iterator[Picture]:
    for page in pages:
        yield from (Picture(page, place, whole=False) for place in page.places)
        yield from (Picture(page, place, whole=True) for place in page.heroes.values())


def _photos(export: Export, rows: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    try:
        for row, found in try_rows(export, rows, region=False, enlarged=ENLARGED):
            if not isinstance(found, str):
                yield row, found.image
    except (FinerRayError, TypeError):
        # The export does not say how its photos are read; the image pages say so.
        return


def _drawn(export: Export, picture: Picture, photo: NDArray[np.uint8]) -> Iterator[tuple[str, Image.Image]]:
    page, place = picture.page, picture.place
    if not picture.whole and place.cell is not None:
        times = 1 if export.manifest.transform.get("resize") == "native" else ENLARGED
        here = _registration(export, place.row, [side // times for side in photo.shape[:2]])
        around = centre(Shown(place.row, place.cell, 0.0), export.manifest.layout.grid[1], here, times)
        side = CLOSE_UP * times * max(here.stride)
        yield "", _at_most(close_up(photo, around, side), CROP)
        return
    yield "", _at_most(photo, HERO)
    lit = evidence(export, page, place.row, photo.shape[:2])
    if lit is not None:
        yield "-lit", _at_most((overlay(photo, lit, mode="hot") * 255).round().astype(np.uint8), HERO)


def ring(export: Export, place: Place, size: Sequence[int]) -> dict[str, float] | None:
    """A circle around a cell, in pixels of the model's input (H, W): cx, cy, r; None of a place without a cell."""
    if place.cell is None:
        return None
    here = _registration(export, place.row, size)
    cx, cy = centre(Shown(place.row, place.cell, 0.0), export.manifest.layout.grid[1], here, times=1)
    return {"cx": round(cx, 2), "cy": round(cy, 2), "r": round(min(1.6 * max(here.stride), 0.14 * min(size)), 2)}


def _registration(export: Export, row: int, size: Sequence[int]) -> Registration:
    """Where an image's cells lie in the model's input (H, W)."""
    known = export.manifest.layout.registration
    return known or Registration.stretched(size, own_grids(export.stored("maps", [row])[:, 0])[0].tolist())


def evidence(export: Export, page: PairPage, row: int, size: tuple[int, ...]) -> NDArray[np.float32] | None:
    """For an image's target over the other class of the pair, (H, W), not negative; None where it is not compared."""
    if not export.manifest.layout.basis:
        return None
    [line] = export.images.filter(export.images["row"].to_numpy() == row).select(["target", "references"]).to_pylist()
    other = set(page.pair.classes) - {line["target"]}
    places = [place for place, index in enumerate(line["references"]) if index in other]
    if line["target"] not in page.pair.classes or not places:
        return None
    [found] = export.contrast([row], DEFAULT.gamma, references=places[:1], size=(size[0], size[1]))
    lit: NDArray[np.float32] = found
    return lit


def _at_most(picture: NDArray[np.uint8], side: int) -> Image.Image:
    made = Image.fromarray(picture)
    made.thumbnail((side, side), Image.Resampling.LANCZOS)
    return made
