"""Writing an export for another tool: maps as PNGs in their photos' pixels, the photos, and the tool's own files."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finer_ray.config.messages import brief, shown
from finer_ray.errors import ExportError
from finer_ray.images.decode import DecodeError, open_image
from finer_ray.images.image_formats import PACKED
from finer_ray.images.sample import Sample
from finer_ray.metrics.table import REPORTED
from finer_ray.pipeline.progress import late_bar
from finer_ray.report.best_map import best_map
from finer_ray.report.photos import try_samples
from finer_ray.store.batches import Batch, Held, batches, with_lines
from finer_ray.store.reading import Export
from finer_ray.to.region import region_of
from finer_ray.to.tool import Item, Made, Tool

PHOTOS = "photos"


@dataclass
class Written:
    """What was written.

    Attributes:
        images: how many.
        lost: why photos are missing, and how many for each reason.
    """

    images: int = 0
    lost: Counter[str] = field(default_factory=Counter)


def write_for(
    export: Export,
    tool: Tool,
    folder: Path,
    name: str | None = None,
    rows: Sequence[int] | None = None,
    threshold: float = 0.2,
) -> Written:
    """Write an export's maps for another tool, into a folder that appears once it is whole.

    Args:
        export: any that has maps.
        tool: of TOOLS.
        folder: new or empty.
        name: of the map; the one that measures best, see `best_map`, when None.
        rows: of `images`, sorted; all when None.
        threshold: share of a map's maximum from which on a pixel belongs to its region, in (0, 1].

    Raises:
        ExportError: no such map, or the folder is a file or holds anything.

    >>> from finer_ray.store.reading import open_export
    >>> from finer_ray.to.tools import TOOLS
    >>> write_for(open_export("demo_export"), TOOLS["png"], Path("as_png")).images
    12
    """
    names = export.manifest.layout.maps
    wanted = name or best_map(export).name
    if wanted not in names:
        raise ExportError(f"the export has no map {wanted!r}; it has {', '.join(names) or 'none'}")
    place = folder.resolve()
    _check_empty(folder, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    version = f"{export.manifest.model_fingerprint}-{export.manifest.config_fingerprint}"
    made = Made(place.name, wanted, threshold, export.manifest.classes, version)
    everything = np.sort(export.images["row"].to_numpy()).tolist() if rows is None else list(rows)
    with TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as around:
        draft, written = Path(around, "draft"), Written()
        for part in (tool.maps, *([PHOTOS] if tool.photos else ())):
            (draft / part).mkdir(parents=True)
        with late_bar(len(everything), "writing maps") as advance:

            def items() -> Iterator[Item]:
                for batch in with_lines(export, batches(export, everything)):
                    for item in _items(export, batch, made, tool, draft, written.lost):
                        written.images += 1
                        yield item
                        advance(1)

            tool.write(draft, made, items())
        # Minutes have passed.
        _check_empty(folder, place)
        draft.rename(place)
    return written


def _check_empty(folder: Path, place: Path) -> None:
    """Raises ExportError where something stands already."""
    if not place.exists():
        return
    if not place.is_dir():
        raise ExportError(f"{folder} is a file: name a folder with --to")
    if (held := next(place.iterdir(), None)) is not None:
        raise ExportError(f"{folder} holds {shown(held.name)}, and is not written over: name a new folder with --to")


def _items(export: Export, batch: Batch, made: Made, tool: Tool, folder: Path, lost: Counter[str]) -> Iterator[Item]:
    """Items of a batch; the files of each are written before it is given."""
    held = Held(export, batch)
    metrics = {line["row"]: line for line in batch.metrics.to_pylist() if line["map"] == made.map}
    samples = try_samples(held, batch.rows) if tool.photos else ((row, None) for row in batch.rows)
    embeddings = held.embedding(batch.rows) if export.manifest.layout.embedding is not None else None
    for place, (line, (row, sample)) in enumerate(zip(batch.images.to_pylist(), samples, strict=True)):
        [heat] = held.maps([row], made.map, place="photo")
        stem = f"{row:06d}"
        yield Item(
            line=line,
            metrics=_known(metrics.get(row, {})),
            label=_class(made.classes, line["label"]),
            target=made.classes[line["target"]],
            predicted=made.classes[line["predicted"]],
            embedding=None if embeddings is None else _finite(embeddings[place]),
            map=f"{tool.maps}/{stem}.png",
            photo=None if sample is None else _photo(sample, folder, stem, lost),
            scale=_write_map(heat, folder / tool.maps / f"{stem}.png"),
            region=region_of(heat, made.threshold),
        )


def _known(metrics: dict[str, Any]) -> dict[str, float | bool]:
    """Those that JSON can say: it has no infinity."""
    known = {name: metrics.get(name) for name in REPORTED}
    return {name: value for name, value in known.items() if value is not None and math.isfinite(value)}


def _finite(embedding: NDArray[np.float16]) -> NDArray[np.float16] | None:
    return embedding if np.isfinite(embedding).all() else None


def _class(classes: Sequence[str], index: int | None) -> str | None:
    return None if index is None else classes[index]


def _write_map(heat: NDArray[np.float32], path: Path) -> float:
    """Write a map as 8-bit grey; 0 where the model did not see the photo. Returns the value of one grey level."""
    scale = float(np.nanmax(heat, initial=0)) / 255
    grey = np.nan_to_num(heat) / (scale or 1)
    Image.fromarray(grey.round().astype(np.uint8)).save(path)
    return scale


def _photo(found: Sample | str, folder: Path, stem: str, lost: Counter[str]) -> str | None:
    """Write a photo's own bytes under its row's name; None where it is lost."""
    if isinstance(found, str) or found.image is None:
        lost[found if isinstance(found, str) else "no image"] += 1
        return None
    try:
        # It was within the limit when it was explained.
        kind = open_image(found.image, 2**62).format or ""
    except DecodeError as error:
        lost[brief(error)] += 1
        return None
    path = f"{PHOTOS}/{stem}.{PACKED.get(kind, kind.lower())}"
    (folder / path).write_bytes(found.image)
    return path
