"""Verification: proof that an export is whole."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from finer_ray.shards import fields_of, list_keys
from finer_ray.store.manifest import ShardEntry, entry_units
from finer_ray.store.reading import Export, open_export

MAX_LISTED = 5


def verify_export(url: str, keys: bool = True) -> list[str]:
    """What is wrong with an export, as one line per finding; an empty list proves that

    - every input image is one line of images or of failures, with its own key, at its own row,
    - every row of images is written in every array, finite, with one line of metrics per map,
    - every other row is fill, but those that the last run has taken out, whose tensors go at the next.

    Args:
        url: of the export.
        keys: list the shards again and compare keys. Shards that are gone or changed are findings.

    Raises:
        ExportError: there is no finished export.
    """
    export = open_export(url)
    findings = [*_lines(export), *_metrics(export), *_tensors(export)]
    if keys:
        findings += [line for entry in export.manifest.shards for line in _keys(export, entry)]
    return findings


def _expected(export: Export, entry: ShardEntry) -> np.ndarray:
    """The rows of a shard's images."""
    units = entry_units(entry, export.manifest.layout.rows_per_unit)
    size = export.manifest.layout.rows_per_unit
    starts = [np.arange(unit.count) + unit.number * size for unit in units]
    return np.concatenate([np.empty(0, np.int64), *starts])


def _lines(export: Export) -> Iterator[str]:
    images = export.images["row"].to_numpy()
    failures = export.failures["row"].drop_null().to_numpy()
    found, counts = np.unique(np.concatenate([images, failures]), return_counts=True)
    expected = np.concatenate([np.empty(0, np.int64), *(_expected(export, e) for e in export.manifest.shards)])
    if twice := found[counts > 1][:MAX_LISTED].tolist():
        yield f"rows with more than one line in images and failures: {twice}"
    if missing := np.setdiff1d(expected, found)[:MAX_LISTED].tolist():
        yield f"rows with no line in images or failures: {missing}"
    if surplus := np.setdiff1d(found, expected)[:MAX_LISTED].tolist():
        yield f"lines of rows that belong to no image: {surplus}"


def _metrics(export: Export) -> Iterator[str]:
    known = export.metrics.select(["row", "map"])
    for name in export.manifest.layout.maps:
        lines = known.filter(pc.equal(known["map"], name))["row"].to_numpy()
        if not np.array_equal(np.sort(lines), np.sort(export.images["row"].to_numpy())):
            yield f"metrics of the map {name}: not one line for every image"


def _tensors(export: Export) -> Iterator[str]:
    size = export.manifest.layout.rows_per_unit
    written = np.zeros(export.manifest.rows(), bool)
    written[export.images["row"].to_numpy()] = True
    lacking = _lacking(export, written)
    free = _free(export, len(written))
    for name in export.manifest.layout.shapes():
        array = export.tensors[name]
        if array.shape[0] < len(written):
            yield f"{name}: {array.shape[0]} rows where {len(written)} are needed"
            continue
        for first in range(0, len(written), size):
            rows = slice(first, first + size)
            values = array[rows].reshape(size, -1)
            if name == "references":
                filled = (values == -1).all(1)
                good = ~filled | lacking[rows]
            else:
                filled = np.isnan(values).all(1)
                good = np.isfinite(values).all(1) | (lacking[rows] & ~filled if name == "basis" else False)
            if wrong := (first + np.flatnonzero(written[rows] & ~good))[:MAX_LISTED].tolist():
                yield f"{name}: rows not written or not finite: {wrong}"
            if wrong := (first + np.flatnonzero(~written[rows] & ~filled & ~free[rows]))[:MAX_LISTED].tolist():
                yield f"{name}: rows written for no image: {wrong}"


def _free(export: Export, rows: int) -> np.ndarray:
    """Rows of shards that were replaced or removed by the last publication, whose tensors may still be there."""
    free, size = np.zeros(rows, bool), export.manifest.layout.rows_per_unit
    for span in export.manifest.retired:
        free[span.first_unit * size : (span.first_unit + span.units) * size] = not span.erased
    return free


def _lacking(export: Export, written: np.ndarray) -> np.ndarray:
    """Rows of images that have fewer references than others (a listed reference was their own target)."""
    lacking = np.zeros(len(written), bool)
    if export.manifest.layout.references:
        lacks = [-1 in references for references in export.images["references"].to_pylist()]
        lacking[export.images["row"].to_numpy()] = lacks
    return lacking


def _keys(export: Export, entry: ShardEntry) -> Iterator[str]:
    shard = entry.shard
    fields = fields_of(shard.ref.format, export.manifest.fields())
    try:
        keys = list(list_keys(shard.ref, fields))
    except Exception as error:
        if shard.count:
            yield f"{shard.ref.url}: cannot be listed again ({error})"
        return
    if len(keys) != shard.count:
        yield f"{shard.ref.url}: holds {len(keys)} images now, {shard.count} when it was exported"
        return
    stored: dict[int, str | None] = {}
    for table in (export.images, export.failures):
        mine = table.filter(pc.and_(pc.equal(table["shard"], shard.ref.url), pc.is_valid(table["index"])))
        stored.update(zip(mine["index"].to_pylist(), mine["key"].to_pylist(), strict=True))
    if wrong := [i for i, key in enumerate(keys) if (stored.get(i) or "") != key][:MAX_LISTED]:
        yield f"{shard.ref.url}: images with another key than in the export, by index: {wrong}"
