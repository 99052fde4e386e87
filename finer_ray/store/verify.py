"""Verification: proof that an export is whole."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from finer_ray.shards import fields_of, list_keys
from finer_ray.store.grids import own_grids
from finer_ray.store.layout import ARRAYS
from finer_ray.store.manifest import ShardEntry, entry_units
from finer_ray.store.reading import Export, open_export

MAX_LISTED = 5


def verify_export(url: str, keys: bool = True) -> list[str]:
    """What is wrong with an export, as one line per finding; an empty list proves that

    - every input image is one line of images or of failures, with its own key, at its own row,
    - every row of images is written in every array, finite, with one line of metrics per map (patches are finite where
      there is a cell),
    - where there are several targets, each that an image has is one line of targets, with a line of target_metrics per
      map, and the first is that of images,
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
    if export.manifest.layout.targets > 1:
        yield from _targets(export)


def _targets(export: Export) -> Iterator[str]:
    targets, images = export.targets, export.images
    first = targets.filter(pc.equal(targets["rank"], 0)).select(["row", "target"])
    if not first.sort_by("row").equals(images.select(["row", "target"]).sort_by("row")):
        yield "targets: the first ones are not those of images"
    # The next after the first, and so on: ranks of an image have no gap.
    found = targets.group_by("row").aggregate([("rank", "count"), ("rank", "max"), ("rank", "count_distinct")])
    whole = pc.and_(
        pc.equal(found["rank_count"], pc.add(found["rank_max"], 1)),
        pc.equal(found["rank_count"], found["rank_count_distinct"]),
    )
    if wrong := found.filter(pc.invert(whole))["row"].to_pylist()[:MAX_LISTED]:
        yield f"targets: not one line for each target of an image, by row: {wrong}"
    keys = ["row", "rank", "target"]
    expected = targets.select(keys).sort_by([(key, "ascending") for key in keys])
    for name in export.manifest.layout.maps:
        lines = export.target_metrics.filter(pc.equal(export.target_metrics["map"], name)).select(keys)
        if not lines.sort_by([(key, "ascending") for key in keys]).equals(expected):
            yield f"target_metrics of the map {name}: not one line for every target"


def _tensors(export: Export) -> Iterator[str]:
    size = export.manifest.layout.rows_per_unit
    written = np.zeros(export.manifest.rows(), bool)
    written[export.images["row"].to_numpy()] = True
    lacking, fewer = _lacking(export, written), _fewer_targets(export, written)
    free = _free(export, len(written))
    for name in export.manifest.layout.shapes():
        array = export.tensors[name]
        if array.shape[0] < len(written):
            yield f"{name}: {array.shape[0]} rows where {len(written)} are needed"
            continue
        if name == "patches" and export.tensors["patch_cells"].shape[0] < len(written):
            continue
        for first in range(0, len(written), size):
            rows = slice(first, first + size)
            values = array[rows]
            floats = ARRAYS[name].dtype.startswith("float")
            if floats and export.manifest.transform.get("resize") == "native" and ARRAYS[name].axes[-2:] == ("y", "x"):
                values = _settled(values)
            values = values.reshape(size, -1)
            if not floats:
                filled = (values == ARRAYS[name].fill).all(1)
                # An image may show no part, and no evidence.
                good = ~filled | (lacking[rows] if name == "references" else True)
            elif name == "patches":
                filled, good = np.isnan(values).all(1), _are_of_cells(values, export.tensors["patch_cells"][rows])
            else:
                filled = np.isnan(values).all(1)
                holes = {"basis": lacking | fewer, "maps": fewer}.get(name, np.zeros_like(lacking))[rows]
                good = np.isfinite(values).all(1) | (holes & ~filled)
            if wrong := (first + np.flatnonzero(written[rows] & ~good))[:MAX_LISTED].tolist():
                yield f"{name}: rows not written or not finite: {wrong}"
            if wrong := (first + np.flatnonzero(~written[rows] & ~filled & ~free[rows]))[:MAX_LISTED].tolist():
                yield f"{name}: rows written for no image: {wrong}"


def _are_of_cells(patches: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Of each row (n,), whether patches (n, P * features) are finite where there is a cell (n, P), and else NaN."""
    patches = patches.reshape(*cells.shape, -1)
    there = (cells >= 0)[:, :, None]
    whole: np.ndarray = np.where(there, np.isfinite(patches), np.isnan(patches)).all((1, 2))
    return whole


def _settled(values: np.ndarray) -> np.ndarray:
    """Maps (n, ..., h, w); beyond the grid of each row's first one 0 where NaN stands, as it should, and else NaN."""
    values = values.reshape(len(values), -1, *values.shape[-2:])
    grids = own_grids(values[:, 0])
    down, across = np.ogrid[: values.shape[2], : values.shape[3]]
    inside = (down < grids[:, :1, None]) & (across < grids[:, 1:, None]) | (grids[:, :1, None] == 0)
    return np.where(inside[:, None], values, np.where(np.isnan(values), 0, np.nan))


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
        for lines in (export.images, export.targets):
            lacks = np.array([-1 in references for references in lines["references"].to_pylist()], bool)
            lacking[lines["row"].to_numpy()[lacks]] = True
    return lacking


def _fewer_targets(export: Export, written: np.ndarray) -> np.ndarray:
    """Rows of images that have fewer targets than the arrays have room for."""
    if export.manifest.layout.targets == 1:
        return np.zeros(len(written), bool)
    counts = np.bincount(export.targets["row"].to_numpy(), minlength=len(written))
    return written & (counts < export.manifest.layout.targets)


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
