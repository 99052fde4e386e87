"""Images: for each one that gets a page, its photo as files, and the numbers from which the page redraws its maps."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from finer_ray.errors import FinerRayError
from finer_ray.images.decode import Decoded
from finer_ray.report.gamma_sweep import sweep_scores
from finer_ray.report.overlay import overlay
from finer_ray.report.photos import try_rows
from finer_ray.report.site.map_data import SHOWN, main_map, map_data
from finer_ray.store.reading import Export

GAMMAS = np.linspace(-1, 3, 41).round(6)
QUALITY = 90
# Rows whose tensors are in memory together.
BATCH = 64


@dataclass(frozen=True)
class ImagePage:
    """An image as a page shows it.

    Attributes:
        line: of the table `images`.
        metrics: lines of the table `metrics`, in the order of the maps.
        problem: why its photo cannot be shown, or None.
        region: whether its annotated region is at hand.
        data: what the page's script needs: `map_data`, with `photo` and `outline` where it has them (see `_embedded`).
        sweep: by metric of regions, its values at `GAMMAS`, (G,); None without a region or a basis.
    """

    line: dict[str, Any]
    metrics: list[dict[str, Any]]
    problem: str | None
    region: bool
    data: dict[str, Any]
    sweep: dict[str, NDArray[np.float32]] | None


def show_images(export: Export, rows: Sequence[int], folder: Path) -> Iterator[ImagePage]:
    """Write ROW.jpg (the model's view), ROW-map.jpg and, where there is a region, ROW-region.png; no name comes from
    the input.

    Args:
        export: any.
        rows: sorted.
        folder: that gets the files.

    Yields:
        What each page shows, in the order of rows.
    """
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        lines, metrics = _lines(export, "images", batch), _lines(export, "metrics", batch)
        stored = {name: export.stored(name, batch) for name in export.manifest.layout.shapes() if name in SHOWN}
        photos = _photos(export, batch)
        for place, row in enumerate(batch):
            tensors = {name: values[place] for name, values in stored.items()}
            found = photos[row]
            decoded = None if isinstance(found, str) else found
            if decoded is not None:
                heat = export.maps([row], main_map(export), decoded.image.shape[:2])[0]
                _write(folder / str(row), decoded, heat)
            yield ImagePage(
                line=lines[row][0],
                metrics=metrics.get(row, []),
                problem=found if isinstance(found, str) else None,
                region=decoded is not None and decoded.region is not None,
                data=map_data(export, lines[row][0], tensors, decoded) | _embedded(folder / str(row)),
                sweep=_sweep(export, row, decoded),
            )


def _photos(export: Export, rows: Sequence[int]) -> dict[int, Decoded | str]:
    try:
        return dict(try_rows(export, rows, region=True))
    except (FinerRayError, TypeError) as error:
        return dict.fromkeys(rows, f"the export does not say how its photos are read: {error}")


def _lines(export: Export, table: str, rows: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    whole: pa.Table = getattr(export, table)
    found: dict[int, list[dict[str, Any]]] = {}
    for line in whole.filter(pc.is_in(whole["row"], pa.array(rows, pa.int64()))).to_pylist():
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
    return {name: values[0] for name, values in scores.items()}
