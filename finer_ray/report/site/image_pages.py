"""Images: for each one that gets a page its photo as files, and the page with the numbers that redraw its maps."""

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from finer_ray.errors import FinerRayError
from finer_ray.images.decode import Decoded
from finer_ray.metrics.table import CURVES, REPORTED
from finer_ray.report.gamma_sweep import sweep_scores
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import try_rows
from finer_ray.report.site.curves import curve_charts, image_curves
from finer_ray.report.site.map_data import SHOWN, map_data
from finer_ray.report.site.templating import environment, write_page
from finer_ray.store.batches import Batch, Held
from finer_ray.store.reading import Export

GAMMAS = np.linspace(-1, 3, 41).round(6)
QUALITY = 90


@dataclass(frozen=True)
class Shown:
    """What other pages need of an image that has one.

    Attributes:
        line: of the table `images`.
        problem: why its photo cannot be shown, or None.
        sweep: by metric of regions, its values at `GAMMAS`, (G,); None where they are not wanted, or without a region
            or a basis.
    """

    line: dict[str, Any]
    problem: str | None
    sweep: dict[str, NDArray[np.float32]] | None


@dataclass(frozen=True)
class ImagePage:
    """An image as its page shows it.

    Attributes:
        line: of the table `images`.
        metrics: lines of the table `metrics`, in the order of the maps.
        problem: why its photo cannot be shown, or None.
        region: whether its annotated region is at hand.
        data: what the page's script needs: `map_data`, with `photo` and `outline` where it has them (see `_embedded`).
    """

    line: dict[str, Any]
    metrics: list[dict[str, Any]]
    problem: str | None
    region: bool
    data: dict[str, Any]


@dataclass(frozen=True)
class ImagePages:
    """Writes the pages of images, a batch at a time, in any process: what it holds can be pickled.

    For each image ROW.html, ROW.jpg (the model's view), ROW-map.jpg and, where there is a region, ROW-region.png; no
    name comes from the input.

    Attributes:
        export: whose tables are not read: batches bring their lines.
        main: the map that is drawn over the photo.
        known: what all templates know.
        rows: of all images that get a page, sorted.
        swept: rows whose sweep is wanted.
        folder: that gets the files.
    """

    export: Export
    main: str
    known: Mapping[str, Any]
    rows: Sequence[int]
    swept: Collection[int]
    folder: Path

    def __call__(self, batch: Batch) -> list[Shown]:
        held = Held(self.export, batch)
        lines, metrics = _by_row(batch.images.to_pylist()), _by_row(batch.metrics.to_pylist())
        stored = {name: held.stored(name, batch.rows) for name in held.manifest.layout.shapes() if name in SHOWN}
        made = []
        for place, (row, found) in enumerate(_photos(held, batch.rows)):
            decoded = None if isinstance(found, str) else found
            if decoded is not None:
                heat = held.maps([row], self.main, decoded.image.shape[:2])[0]
                _write(self.folder / str(row), decoded, heat)
            tensors = {name: values[place] for name, values in stored.items()}
            image = ImagePage(
                line=lines[row][0],
                metrics=metrics.get(row, []),
                problem=found if isinstance(found, str) else None,
                region=decoded is not None and decoded.region is not None,
                data=map_data(held, lines[row][0], tensors, decoded, self.main) | _embedded(self.folder / str(row)),
            )
            self._page(image)
            made.append(Shown(image.line, image.problem, _sweep(held, row, decoded) if row in self.swept else None))
        return made

    @cached_property
    def _environment(self) -> Environment:
        return environment(self.known)

    def _page(self, image: ImagePage) -> None:
        row, entries = image.line["row"], image.metrics
        place = int(np.searchsorted(self.rows, row))
        around = [self.rows[other] if 0 <= other < len(self.rows) else None for other in (place - 1, place + 1)]
        write_page(
            self._environment,
            self.folder / f"{row}.html",
            "image.html",
            "../",
            image=image,
            place=place + 1,
            before=around[0],
            after=around[1],
            known=[metric for name, metric in REPORTED.items() if any(entry[name] is not None for entry in entries)],
            curves=curve_charts({name: image_curves(entries, name) for name in CURVES}),
        )


def _photos(export: Export, rows: Sequence[int]) -> Iterator[tuple[int, Decoded | str]]:
    """Each row with its photo, or why there is none."""
    left, reason = list(rows), "its shard no longer holds it"
    try:
        for row, found in try_rows(export, rows, region=True):
            left.remove(row)
            yield row, found
    except (FinerRayError, TypeError) as error:
        reason = f"the export does not say how its photos are read: {error}"
    yield from ((row, reason) for row in left)


def _by_row(lines: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["row"], []).append(line)
    return found


def _write(stem: Path, decoded: Decoded, heat: NDArray[np.float32]) -> None:
    Image.fromarray(decoded.image).save(f"{stem}.jpg", quality=QUALITY, subsampling=0)
    drawn = (overlay(decoded.image, heat) * 255).round().astype(np.uint8)
    Image.fromarray(drawn).save(f"{stem}-map.jpg", quality=QUALITY)
    if decoded.region is not None:
        Image.fromarray(_outline(decoded.region), "RGBA").save(f"{stem}-region.png", optimize=True)


def _embedded(stem: Path) -> dict[str, str]:
    """The photo's and the outline's files as data: addresses, by `photo` and `outline`, where there are such files.

    A page from disk may show the image file beside it but not read it, and saves figures from these.
    """
    kinds = {"photo": (".jpg", "image/jpeg"), "outline": ("-region.png", "image/png")}
    return {
        name: f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        for name, (suffix, kind) in kinds.items()
        if (path := stem.with_name(stem.name + suffix)).is_file()
    }


def _outline(region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A line around a region, white with a dark edge, on nothing: (H, W, 4) uint8. It covers no pixel of the region."""
    drawn = np.zeros((*region.shape, 4), np.uint8)
    near = ndimage.binary_dilation(region)
    drawn[ndimage.binary_dilation(near) & ~region] = (0, 0, 0, 160)
    drawn[near & ~region] = (255, 255, 255, 255)
    return drawn


def _sweep(export: Export, row: int, decoded: Decoded | None) -> dict[str, NDArray[np.float32]] | None:
    """Metrics of the Finer-Grad-CAM map at `GAMMAS`, as the job aggregates and weighs."""
    if decoded is None or decoded.region is None or not export.manifest.layout.basis:
        return None
    scores = sweep_scores(export, [row], decoded.region[None], GAMMAS.tolist())
    # A view would keep the maps at all gammas.
    return {name: values[0].copy() for name, values in scores.items()}
