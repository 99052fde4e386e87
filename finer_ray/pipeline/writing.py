"""Writing stage: an explained unit to its Zarr objects and its commit."""

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from finer_ray.pipeline.columns import unpack
from finer_ray.shards.formats import joined_digest
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.parts import commit
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, IMAGES, METRICS
from finer_ray.store.tensors import write_unit

# Of a unit, that its line for the driver carries.
MAX_REASONS = 16
# Of a run, that its note names.
TOLD_REASONS = 3


def write(table: pa.Table, url: str, layout: Layout, patience: float) -> pa.Table:
    """Write a unit: one Zarr shard object per array, then its parts.

    Args:
        table: what `Explainer` gives, the lines of one whole unit.
        url: of the export.
        patience: seconds for which a store that fails in passing is tried again.

    Returns:
        One line for the driver: unit, images, failures; unknown_labels, images explained without their label, which is
        no class; unknown_label_reasons, a JSON object of the commonest reasons with their counts.

    Raises:
        StoreError: the store refuses to, or does not answer.
    """
    unit = table["unit"][0].as_py()
    tensors = {name: unpack(table[name], ARRAYS[name].dtype, shape) for name, shape in layout.shapes().items()}
    tables = unit_tables(table, layout)
    folder = Folder(url, patience)
    write_unit(folder, layout, unit, tensors)
    commit(folder, unit, tables, joined_digest(table["digest"].to_pylist()))
    unknown = unknown_labels(table)
    return pa.table(
        {
            "unit": [unit],
            "images": [tables["images"].num_rows],
            "failures": [tables["failures"].num_rows],
            "unknown_labels": [unknown.total()],
            "unknown_label_reasons": [json.dumps(dict(unknown.most_common(MAX_REASONS)))],
        }
    )


def unknown_labels(table: pa.Table) -> Counter[str]:
    """Why labels of a unit's images are no class, with counts; images that failed have no say."""
    columns = (table[name].to_pylist() for name in ("stage", "unknown_label"))
    return Counter(reason for stage, reason in zip(*columns, strict=True) if stage is None and reason is not None)


def unknown_label_note(count: int, reasons: Counter[str]) -> str:
    """What the user is told of images that were explained without their label.

    Args:
        count: of these images.
        reasons: why a label is no class, with counts.
    """
    told = "; ".join(f"{reason}: {images}" for reason, images in reasons.most_common(TOLD_REASONS))
    more = "; ..." if len(reasons) > TOLD_REASONS else ""
    return f"{count} images have a label that is no class, and are explained without it: {told}{more}"


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
