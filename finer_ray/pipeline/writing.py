"""Writing stage: an explained unit to its Zarr objects and its commit."""

import json
from typing import Any

import pyarrow as pa

from finer_ray.pipeline.columns import unpack
from finer_ray.shards.formats import joined_digest
from finer_ray.store.files import Folder
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.parts import commit
from finer_ray.store.tables import FAILURES, IMAGES, METRICS
from finer_ray.store.tensors import write_unit


def write(table: pa.Table, url: str, layout: Layout, patience: float) -> pa.Table:
    """Write a unit: one Zarr shard object per array, then its parts.

    Args:
        table: what `Explainer` gives, the lines of one whole unit.
        url: of the export.
        patience: seconds for which a store that fails in passing is tried again.

    Returns:
        One line for the driver: unit, images, failures.

    Raises:
        StoreError: the store refuses to, or does not answer.
    """
    unit = table["unit"][0].as_py()
    tensors = {name: unpack(table[name], ARRAYS[name].dtype, shape) for name, shape in layout.shapes().items()}
    tables = unit_tables(table, layout)
    folder = Folder(url, patience)
    write_unit(folder, layout, unit, tensors)
    commit(folder, unit, tables, joined_digest(table["digest"].to_pylist()))
    return pa.table({"unit": [unit], "images": [tables["images"].num_rows], "failures": [tables["failures"].num_rows]})


def unit_tables(table: pa.Table, layout: Layout) -> dict[str, pa.Table]:
    """A unit's lines of images, metrics and failures."""
    names = ["unit", "index", "shard", "key", "width", "height", "region_kind", "stage", "error", "line"]
    images, metrics, failures = [], [], []
    for position, note in enumerate(table.select(names).to_pylist()):
        row = note["unit"] * layout.rows_per_unit + position
        if note["stage"] is not None:
            failures.append({**note, "row": row, "key": note["key"] or None})
            continue
        line = json.loads(note["line"])
        images.append({**note, **line, "row": row})
        of = line["target"] if line["label"] is None else line["label"]
        for name, scores in zip(layout.maps, line["metrics"], strict=True):
            hit = scores.get("pointing_hit")
            scores = {**scores, "pointing_hit": None if hit is None else hit > 0}
            metrics.append({**scores, "row": row, "class": of, "map": name, "region": note["region_kind"]})
    lines: dict[str, list[dict[str, Any]]] = {"images": images, "metrics": metrics, "failures": failures}
    schemas = {"images": IMAGES, "metrics": METRICS, "failures": FAILURES}
    return {name: pa.Table.from_pylist(lines[name], schema) for name, schema in schemas.items()}
