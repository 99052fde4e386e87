"""Pair data: the numbers from which the page of a pair redraws all of its maps at another gamma."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.report.site.map_data import input_size
from finer_ray.report.site.pair_pages import PairPage
from finer_ray.saliency.registration import Registration
from finer_ray.store.grids import own_grids
from finer_ray.store.reading import Export
from finer_ray.traits.trait import DEFAULT

# Pixels of a map along its longest side; the browser enlarges it.
DRAWN = 112
# Images whose tensors are in memory together.
BATCH = 64
LINES = ["row", "target", "references", "input_height", "input_width"]


def pair_data(export: Export, page: PairPage) -> dict[str, Any] | None:
    """What the page's script computes from, each entry as `map_data` has it, with M of the target and of the other
    class alone; None where the export has no basis.

    Returns:
        `gamma` that the slider begins at; `images` by row, of those with both maps; `means` by class: the mean over
        `page.compared` of both maps, and `count`; none where images have grids of their own.
    """
    if not export.manifest.layout.basis:
        return None
    table = export.images.select(LINES)
    lines = table.filter(pc.is_in(table["row"], pa.array(page.shown, pa.int64()))).to_pylist()
    images = {line["row"]: found for line in lines if (found := _image(export, page, line)) is not None}
    native = export.manifest.transform.get("resize") == "native"
    means = {} if native else {one: found for one in page.pair.classes if (found := _mean(export, page, one))}
    return {"gamma": DEFAULT.gamma, "images": images, "means": means}


def mean_maps(export: Export, rows: Sequence[int], other: int) -> NDArray[np.float64]:
    """The mean over some images of M of their target and of another class that is among their references.

    Args:
        export: with a basis on one grid.
        rows: n >= 1 of its images; BATCH of them are in memory together.
        other: class index.

    Returns:
        (2, h, w): of the target, and of the other.
    """
    total = np.zeros((2, *export.manifest.layout.grid))
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        references, stored, scale = (export.stored(name, batch) for name in ("references", "basis", "basis_scale"))
        column = 1 + (references == other).argmax(1)
        both = stored[np.arange(len(batch))[:, None], np.stack([np.zeros_like(column), column], axis=1)]
        total += (both.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]).sum(0)
    mean: NDArray[np.float64] = total / len(rows)
    return mean


def _image(export: Export, page: PairPage, line: dict[str, Any]) -> dict[str, Any] | None:
    target, classes = line["target"], page.pair.classes
    other = sum(classes) - target
    if target not in classes or other not in line["references"]:
        return None
    stored, scale = (export.stored(name, [line["row"]])[0] for name in ("basis", "basis_scale"))
    both = stored[[0, 1 + line["references"].index(other)]]
    rows, columns = own_grids(both[:1])[0].tolist()
    return _entry(export, both[:, :rows, :columns], float(scale), (target, other), input_size(export, line))


def _mean(export: Export, page: PairPage, one: int) -> dict[str, Any] | None:
    rows, other = page.compared[one], sum(page.pair.classes) - one
    if not rows:
        return None
    both = mean_maps(export, rows, other)
    scale = max(float(np.abs(both).max()), 1e-12)
    size = export.manifest.transform.get("size", export.manifest.layout.grid)
    return _entry(export, both / scale, scale, (one, other), size) | {"count": len(rows)}


def _entry(
    export: Export, both: NDArray[Any], scale: float, classes: tuple[int, int], size: Sequence[int]
) -> dict[str, Any]:
    names, grid = export.manifest.classes, both.shape[1:]
    here = export.manifest.layout.registration or Registration.stretched(size, grid)
    less = max(1.0, max(size) / DRAWN)
    drawn = [max(1, round(side / less)) for side in size]
    shrunk = [side / pixels for side, pixels in zip(size, drawn, strict=True)]
    offsets = [(offset + 0.5) / by - 0.5 for offset, by in zip(here.offset, shrunk, strict=True)]
    return {
        "size": drawn,
        "grid": list(grid),
        "centres": [offsets, [stride / by for stride, by in zip(here.stride, shrunk, strict=True)]],
        "maps": [],
        "basis": {"scale": scale, "values": base64.b64encode(both.astype("<f2").tobytes()).decode()},
        "class": classes[0],
        "target": names[classes[0]],
        "references": [{"name": names[classes[1]], "logit": 0.0}],
    }
