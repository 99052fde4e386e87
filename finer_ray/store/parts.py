"""Parts: the Parquet pieces that units commit, and the table files that they become."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.store.files import Folder
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, Retired, write_manifest
from finer_ray.store.tables import AVERAGED, CLASSES, FAILURES, IMAGES, METRICS, PARTS, SCHEMAS, summarise, sums

UNITS_PER_FILE = 1024
RETIRED = "retired"
CLASS_FILE = "classes.parquet"


class Each(Protocol):
    """Something that calls a function with each of some items, perhaps on many machines; results in order."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]: ...


def here(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """One after the other, in this process."""
    return [function(item) for item in items]


def commit(folder: Folder, unit: int, tables: dict[str, pa.Table]) -> None:
    """Commit a unit whose Zarr objects are written: its part of `images` comes last and is the commit."""
    for name, schema in PARTS.items():
        folder.write_table(_part(name, unit), tables[name].cast(schema))


def committed(folder: Folder) -> set[int]:
    """Units that have a commit and are not yet in the tables."""
    return {int(name.removesuffix(".parquet")) for name in folder.names("parts/images")}


def failure_count(folder: Folder, units: Iterable[int]) -> int:
    """Lines of failures of some committed units."""
    return sum(folder.count_rows(_part("failures", unit)) for unit in units)


def publish(folder: Folder, units: list[int], plan: Manifest, before: Manifest | None, each: Each = here) -> Manifest:
    """Make table files of the parts of units, and summarise the classes.

    Nothing that the manifest before lists is touched, so its readers go on undisturbed; `settle` makes the new
    state the export's.

    Args:
        folder: of the export.
        units: committed, and not in the tables yet.
        plan: what the export is to be; tables that it lists, which come of no unit, are kept.
        before: what it was, or None.
        each: calls a function with each of some items, wherever there is room.

    Returns:
        The manifest of the new state.
    """
    revision = 0 if before is None else before.revision + 1
    tables: dict[str, list[str]] = {name: [] for name in PARTS}
    groups = [units[first : first + UNITS_PER_FILE] for first in range(0, len(units), UNITS_PER_FILE)]
    made = each(partial(_compact, folder, revision), groups)
    if before is not None:
        ended = [span for span in plan.retired if span not in before.retired and not span.erased]
        kept = {name: [file for file in before.tables[name] if "shards-" not in file] for name in PARTS}
        if ended:
            known = list(zip(*kept.values(), strict=True))
            size = plan.layout.rows_per_unit
            renewed = each(partial(_without, folder, revision, size, ended), known)
            kept = {name: [files[place] for files in renewed] for place, name in enumerate(kept)}
        tables = kept
    for files in made:
        for name, file in zip(PARTS, files, strict=True):
            tables[name].append(file)
    problems = _shard_problems(plan)
    if problems.num_rows:
        tables["failures"].append(f"failures/shards-{revision:06d}.parquet")
        folder.write_table(tables["failures"][-1], problems)
    pieces = each(partial(_sums, folder), list(zip(tables["images"], tables["metrics"], strict=True)))
    tables["classes"] = [f"classes/{revision:06d}.parquet"]
    classes = summarise(pieces, plan.classes) if pieces else CLASSES.empty_table()
    folder.write_table(tables["classes"][0], classes)
    counts = {name: sum(map(folder.count_rows, tables[name])) for name in ("images", "failures")}
    news: dict[str, Any] = {
        "tables": {**plan.tables, **tables},
        "counts": counts,
        "status": "complete",
        "revision": revision,
    }
    return plan.model_copy(update=news)


def settle(folder: Folder, manifest: Manifest) -> None:
    """Make a published state the export's, in one write, and clear up after it; doing it twice does no harm.

    Table files that the manifest no longer lists go to `retired/`, where readers of the state before still find them,
    until the next publication.
    """
    folder.remove(RETIRED)
    write_manifest(folder, EXPORT, manifest)
    clear(folder, manifest)


def clear(folder: Folder, manifest: Manifest) -> None:
    """What is left to do after a manifest was written: `classes.parquet`, files no longer listed, the plan, parts."""
    classes = folder.read(manifest.tables["classes"][0])
    if classes is not None:
        folder.write(CLASS_FILE, classes)
    for name in SCHEMAS:
        for file in (f"{name}/{base}" for base in folder.names(name)):
            if file not in manifest.tables[name]:
                folder.move(file, f"{RETIRED}/{file}")
    folder.remove("parts")
    folder.remove(PLAN)


def read_tables(folder: Folder, files: list[str], schema: pa.Schema) -> pa.Table:
    """Several files as one table."""
    return pa.concat_tables([schema.empty_table(), *(_read(folder, file, schema) for file in files)])


def iter_tables(folder: Folder, files: list[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of several files, batch by batch."""
    for file in files:
        yield from folder.iter_table(file if folder.exists(file) else f"{RETIRED}/{file}", columns)


def _read(folder: Folder, file: str, schema: pa.Schema) -> pa.Table:
    """A table file, also where a later publication has retired it since its manifest was read."""
    try:
        return folder.read_table(file, schema)
    except FileNotFoundError:
        return folder.read_table(f"{RETIRED}/{file}", schema)


def _compact(folder: Folder, revision: int, units: list[int]) -> list[str]:
    """Table files of the parts of some units: metrics, failures, images."""
    files = []
    for name, schema in PARTS.items():
        pieces = [folder.read_table(_part(name, unit), schema) for unit in units]
        files.append(f"{name}/unit-{units[0]:08d}.{revision:06d}.parquet")
        folder.write_table(files[-1], pa.concat_tables(pieces))
    return files


def _without(
    folder: Folder, revision: int, rows_per_unit: int, ended: list[Retired], files: tuple[str, ...]
) -> list[str]:
    """The same files where no row of theirs belongs to the ended units, else new ones without those rows."""
    tables = [folder.read_table(file, schema) for file, schema in zip(files, PARTS.values(), strict=True)]
    gone = [_rows_in(table["row"], ended, rows_per_unit) for table in tables]
    if not any(pc.any(rows).as_py() for rows in gone):
        return list(files)
    renewed = [f"{file.split('.')[0]}.{revision:06d}.parquet" for file in files]
    for file, table, rows in zip(renewed, tables, gone, strict=True):
        folder.write_table(file, table.filter(pc.invert(rows)))
    return renewed


def _rows_in(rows: pa.ChunkedArray, ended: list[Retired], rows_per_unit: int) -> pa.ChunkedArray:
    found = pc.less(rows, 0)
    for span in ended:
        first, count = span.first_unit * rows_per_unit, span.units * rows_per_unit
        found = pc.or_(found, pc.and_(pc.greater_equal(rows, first), pc.less(rows, first + count)))
    return found


def _sums(folder: Folder, files: tuple[str, str]) -> pa.Table:
    images = folder.read_table(files[0], IMAGES, ["row", "label", "target", "predicted"])
    return sums(images, folder.read_table(files[1], METRICS, ["row", "map", *AVERAGED]))


def _shard_problems(manifest: Manifest) -> pa.Table:
    """Lines of failures for shards that are damaged as a whole, which belong to no image."""
    shards = [entry.shard for entry in manifest.shards]
    lines = [
        {"row": None, "shard": shard.ref.url, "index": None, "key": None, "stage": "shard", "error": shard.problem}
        for shard in shards
        if shard.problem is not None
    ]
    return pa.Table.from_pylist(lines, FAILURES)


def _part(name: str, unit: int) -> str:
    return f"parts/{name}/{unit:08d}.parquet"
