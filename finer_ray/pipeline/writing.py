"""Writing stage: an explained unit to its Zarr objects and its commit."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.metrics.table import METRICS as COLUMNS
from finer_ray.pipeline.unit_tables import MODEL_COLUMNS, OF_PREDICTION, WRITTEN, from_column, to_column
from finer_ray.shards.formats import joined_digest
from finer_ray.store.columns import with_own
from finer_ray.store.layout import Layout
from finer_ray.store.parts import commit
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, IMAGES, METRICS, TARGET_METRICS, TARGETS
from finer_ray.store.tensors import write_unit

# Columns that have an axis of targets where there are several.
BY_TARGET = {*MODEL_COLUMNS, *COLUMNS} - {*OF_PREDICTION}
# Reasons that a unit's line for the run carries, and that the run's note names; the others are counted together.
MAX_REASONS, TOLD_REASONS, OTHER = 16, 3, ""


def write(url: str, layout: Layout, retry_seconds: float, table: pa.Table) -> pa.Table:
    """Write a unit: one Zarr shard object per array, then its parts.

    Args:
        url: of the export.
        layout: of its Zarr arrays.
        retry_seconds: for which a store that fails in passing is tried again.
        table: a whole unit, EXPLAINED.

    Returns:
        A line for the run, WRITTEN.

    Raises:
        StoreError: the store refuses to, or does not answer.
    """
    unit = table["unit"][0].as_py()
    tensors = {name: from_column(table[name]) for name in layout.shapes()}
    tables = unit_tables(table, layout)
    folder = Folder(url, retry_seconds)
    write_unit(folder, layout, unit, tensors)
    commit(folder, unit, tables, joined_digest(table["digest"].to_pylist()))
    line = {"unit": unit, "images": tables["images"].num_rows, "failures": tables["failures"].num_rows}
    return pa.Table.from_pylist([{**line, "unknown_labels": unknown_labels(table)}], WRITTEN)


def unknown_labels(table: pa.Table) -> dict[str, int]:
    """Why labels of a unit's images are no class, the commonest reasons with counts, and OTHER for the rest of them;
    images that failed have no say."""
    columns = (table[name].to_pylist() for name in ("stage", "unknown_label"))
    found = Counter(reason for stage, reason in zip(*columns, strict=True) if stage is None and reason is not None)
    told = dict(found.most_common(MAX_REASONS))
    rest = found.total() - sum(told.values())
    return told | ({OTHER: rest} if rest else {})


def unknown_label_note(reasons: Counter[str]) -> str:
    """What the user is told of images that were explained without their label.

    Args:
        reasons: why a label is no class, with counts.
    """
    known = Counter({reason: images for reason, images in reasons.items() if reason != OTHER})
    told = "; ".join(f"{reason}: {images}" for reason, images in known.most_common(TOLD_REASONS))
    more = "; ..." if len(reasons) > TOLD_REASONS else ""
    return f"{reasons.total()} images have a label that is no class, and are explained without it: {told}{more}"


def unit_tables(table: pa.Table, layout: Layout) -> dict[str, pa.Table]:
    """A unit's lines of images, metrics and failures, and where there are several targets, of these.

    Args:
        table: a whole unit, EXPLAINED.
        layout: of its Zarr arrays.
    """
    first = table["unit"][0].as_py() * layout.rows_per_unit
    table = table.append_column("row", pa.array(range(first, first + len(table)), pa.int64()))
    good = pc.is_null(table["stage"])
    images, failed = table.filter(good), table.filter(pc.invert(good))
    keys = pc.if_else(pc.equal(failed["key"], ""), None, failed["key"])
    failed = failed.set_column(failed.column_names.index("key"), "key", keys)
    ranks = [] if layout.targets == 1 else [_of_rank(images, rank) for rank in range(layout.targets)]
    first = ranks[0] if ranks else images
    tables = {
        "images": with_own(_answers(first, IMAGES), first["columns"]),
        "metrics": _metrics(first, layout.maps, METRICS),
        "failures": failed.select(FAILURES.names).cast(FAILURES),
    }
    if ranks:
        tables["targets"] = _sorted([_answers(own, TARGETS) for own in ranks])
        tables["target_metrics"] = _sorted([_metrics(own, layout.maps, TARGET_METRICS) for own in ranks])
    return tables


def _of_rank(images: pa.Table, rank: int) -> pa.Table:
    """The lines of images that have a target of this rank, with what is said of that target alone."""
    for place, name in enumerate(images.column_names):
        if name in BY_TARGET:
            values = from_column(images[name])[:, rank]
            column = to_column(values) if values.ndim > 1 else pa.array(values, from_pandas=True)
            images = images.set_column(place, name, column)
    images = images.append_column("rank", pa.array([rank] * len(images), pa.int32()))
    return images.filter(pc.greater_equal(images["target"], 0))


def _sorted(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).sort_by([("row", "ascending"), ("rank", "ascending")])


def _answers(images: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table({name: _answer(images[name]) for name in schema.names}, schema)


def _answer(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column of images; a tensor of references as lists."""
    return _lists(from_column(column)) if isinstance(column.type, pa.FixedShapeTensorType) else column


def _metrics(images: pa.Table, maps: tuple[str, ...], schema: pa.Schema) -> pa.Table:
    """A line per image and map: each image's maps one after the other.

    Args:
        images: lines of the unit, of one target each.
        maps: their names.
        schema: METRICS or TARGET_METRICS.
    """
    count, places = len(images), np.repeat(np.arange(len(images)), len(maps))
    columns: dict[str, Any] = {
        "class": pc.coalesce(images["label"], images["target"]).take(places),
        "map": pa.array(list(maps) * count, pa.string()),
        "region": images["region_kind"].take(places),
        **{name: images[name].take(places) for name in ("row", "rank", "target") if name in schema.names},
    }
    for field in schema:
        if field.name in columns:
            continue
        if field.name not in images.column_names:
            columns[field.name] = pa.nulls(len(places), field.type)
            continue
        values = from_column(images[field.name])
        columns[field.name] = _scores(field, values.reshape(len(places), *values.shape[2:]))
    return pa.table({name: columns[name] for name in schema.names}, schema)


def _scores(field: pa.Field, values: NDArray[np.float32]) -> pa.Array:
    """A column of metrics of values (n, ...), NaN as null."""
    if pa.types.is_list(field.type):
        # A curve of nothing else, as concepts have, is null as a whole.
        null: NDArray[np.bool_] = np.logical_and.reduce(np.isnan(values), axis=1)
        return _lists(values, null if "step" in COLUMNS[field.name].axes else None)
    numbers = pa.array(values, from_pandas=True)
    return pc.greater(numbers, 0) if pa.types.is_boolean(field.type) else numbers


def _lists(values: NDArray[Any], null: NDArray[np.bool_] | None = None) -> pa.Array:
    """Values (n, k) as n lists, NaN as null.

    Args:
        values: (n, k).
        null: (n,) lists that are null themselves.
    """
    count, size = values.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * size)
    mask = None if null is None else pa.array(null)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), from_pandas=True), mask=mask)
