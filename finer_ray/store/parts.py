"""Parts: the Parquet pieces that units commit, and the table files that they become."""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.errors import FinerRayError, LeaseError, StoreError
from finer_ray.metrics.table import AVERAGED
from finer_ray.store.columns import schemas_with, widest
from finer_ray.store.manifest import EXPORT, Manifest, ManifestFile, Retired, ShardEntry, Unit, read_manifest
from finer_ray.store.storage import Folder
from finer_ray.store.tables import (
    CLASSES,
    FAILURES,
    IMAGES,
    METRICS,
    PARTS,
    SCHEMAS,
    SEVERAL,
    conform,
    part_schemas,
    summarise,
    sums,
)

UNITS_PER_FILE = 1024
RETIRED = "retired"
CLASS_FILE = "classes.parquet"
# Sub-folder of parts in which earlier versions have counted lost GPUs.
LOST = "lost"
# A part, a mark in LOST, or a part that a killed process was writing.
UNIT_FILE = re.compile(r"(\d{8,})(\.parquet(\.[0-9a-f]{8}\.tmp)?)?$")
# Key in a part's schema metadata.
DIGEST = b"finer_ray.digest"


class Mapper(Protocol):
    """As the built-in map: calls a function with each of some items, perhaps on many machines; results in order."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], /) -> Iterator[Any]: ...


def commit(folder: Folder, unit: int, tables: dict[str, pa.Table], digest: str = "") -> None:
    """Commit a unit whose Zarr objects are written: its part of `images` comes last and is the commit.

    Args:
        folder: of the export.
        unit: its number.
        tables: its lines of metrics, failures and images, these with columns of the user's own, and of several targets
            where it has them.
        digest: of what was read for it, kept beside its lines.
    """
    for name, schema in (SEVERAL | PARTS).items():
        if name in tables:
            table = tables[name]
            own = [field for field in table.schema if field.name not in schema.names]
            table = table.cast(pa.schema([*schema, *own])).replace_schema_metadata({DIGEST: digest})
            folder.write_table(_part(name, unit), table)


def committed(folder: Folder) -> set[int]:
    """Units that have a commit and are not yet in the tables."""
    names = (name.removesuffix(".parquet") for name in folder.names("parts/images"))
    return {int(name) for name in names if name.isdigit()}


def committed_digests(folder: Folder, units: Iterable[int]) -> dict[int, str]:
    """Digests of what was read for some committed units; '' where an earlier version committed them."""
    return {unit: _digest(folder.read_schema(_part("images", unit))) for unit in units}


def committed_failures(folder: Folder, unit: int) -> pa.Table:
    """The lines of failures of a committed unit."""
    return folder.read_table(_part("failures", unit), FAILURES)


def failure_count(folder: Folder, units: Iterable[int]) -> int:
    """Lines of failures of some committed units."""
    return sum(folder.count_rows(_part("failures", unit)) for unit in units)


def publish(
    folder: Folder,
    units: list[int],
    plan: ManifestFile,
    export: ManifestFile,
    mapper: Mapper = map,
    confirm: Callable[[], None] = lambda: None,
) -> Manifest:
    """Make what the plan says the export's state: table files of the parts of units, the classes' summary, export.json.

    Files that the state before lists are not touched, so its readers go on undisturbed. Each step leaves something that
    a later run finishes: plan.json names every file before it is written, and export.json is written only where it
    still is the state that the plan continues.

    Args:
        folder: of the export.
        units: numbers of those that are committed, and not in the tables yet.
        plan: plan.json; tables that it lists, which come of no unit, are kept.
        export: export.json.
        mapper: as the built-in map; calls may run elsewhere.
        confirm: raises where this run may not publish any more.

    Returns:
        The manifest of the new state.

    Raises:
        LeaseError: another run has written the plan or the export.
        StoreError, FileNotFoundError: a commit is not that of the plan's unit, or a file is gone.
    """
    before, draft = export.manifest, _planned(plan)
    revision = 0 if before is None else before.revision + 1
    # No two runs write the same file, also where one of them believes wrongly that it may publish.
    tag = f"{revision:06d}-{secrets.token_hex(4)}"
    numbers = set(units)
    wanted = [unit for unit in draft.units() if unit.number in numbers]
    groups = [wanted[first : first + UNITS_PER_FILE] for first in range(0, len(wanted), UNITS_PER_FILE)]
    kept = _kept(before)
    ours = [
        *_new_files(groups, kept, tag, part_schemas(draft.layout.targets)),
        f"failures/shards-{tag}.parquet",
        f"classes/{tag}.parquet",
    ]
    listed = [] if before is None else [file for name in SCHEMAS for file in before.tables.get(name, [])]
    plan.write(draft.model_copy(update={"obsolete": list(dict.fromkeys([*draft.obsolete, *listed, *ours]))}))
    try:
        made = _new_state(folder, draft, before, groups, kept, tag, mapper)
        current = {*ours, *(file for files in made.tables.values() for file in files)}
        obsolete = [file for file in _planned(plan).obsolete if file not in current]
        made = made.model_copy(update={"obsolete": obsolete})
        confirm()
        if before is not None:
            folder.remove_files(place for file in before.obsolete for place in (f"{RETIRED}/{file}", file))
        export.write(made)
    except (LeaseError, StoreError, FileNotFoundError):
        # Whoever has published meanwhile may have cleared up before these files were written.
        with suppress(FinerRayError):
            now = read_manifest(folder, EXPORT)
            folder.remove_files(set(ours) & set([] if now is None else now.obsolete))
        raise
    clean_up(folder, plan, export)
    return made


def clean_up(folder: Folder, plan: ManifestFile, export: ManifestFile) -> None:
    """What is left to do after export.json was written; doing it twice does no harm.

    `classes.parquet` is written, table files that are no longer listed go to `retired/`, where readers of the state
    before still find them until the next publication, and the plan and the parts of published units are removed.
    """
    manifest = _planned(export)
    _copy_classes(folder, manifest)
    for file in manifest.obsolete:
        folder.move(file, f"{RETIRED}/{file}")
    for name in (*part_schemas(manifest.layout.targets), LOST):
        # Of published units alone: those of later ones are another run's, which may have taken over.
        found = ((base, UNIT_FILE.match(base)) for base in folder.names(f"parts/{name}", ""))
        ended = [base for base, unit in found if unit and int(unit[1]) < manifest.next_unit()]
        folder.remove_files(f"parts/{name}/{base}" for base in ended)
        folder.remove_empty(f"parts/{name}")
    folder.remove_empty("parts")
    # Another run may have taken over and have a plan of its own by now.
    with suppress(LeaseError):
        plan.remove()


def _planned(file: ManifestFile) -> Manifest:
    if file.manifest is None:
        raise ValueError("there is no manifest")
    return file.manifest


def _schemas(manifest: Manifest, columns: Mapping[str, str]) -> dict[str, pa.Schema]:
    """Schemas of a unit's parts, with columns of the user's own, of these kinds, in `images`."""
    schemas = schemas_with(columns)
    return {name: schemas[name] for name in part_schemas(manifest.layout.targets)}


def _kept(before: Manifest | None) -> list[tuple[str, ...]]:
    """Table files of the state before that hold lines of units: metrics, failures, images of the same units."""
    if before is None:
        return []
    names = part_schemas(before.layout.targets)
    return list(zip(*([file for file in before.tables[name] if "shards-" not in file] for name in names), strict=True))


def _new_files(
    groups: list[list[Unit]], kept: list[tuple[str, ...]], tag: str, schemas: dict[str, pa.Schema]
) -> Iterator[str]:
    """Names of files that may be written for units, and in place of kept files whose lines are not all kept."""
    for group in groups:
        yield from (_file(name, group, tag) for name in schemas)
    for files in kept:
        yield from (_renewed(file, tag) for file in files)


def _new_state(
    folder: Folder,
    draft: Manifest,
    before: Manifest | None,
    groups: list[list[Unit]],
    kept: list[tuple[str, ...]],
    tag: str,
    mapper: Mapper,
) -> Manifest:
    """Write the table files of the new state; its manifest."""
    size = draft.layout.rows_per_unit
    columns = _columns(folder, draft, before, groups, mapper)
    schemas = _schemas(draft, columns)
    made = list(mapper(partial(_compact, folder, tag, size, schemas), groups))
    known = [] if before is None else before.retired
    ended = [span for span in draft.retired if span not in known and not span.erased]
    if ended and kept:
        kept = list(mapper(partial(_without, folder, tag, size, schemas, ended), kept))
    files = [*kept, *(files for files, _ in made)]
    tables: dict[str, list[str]] = {name: [group[place] for group in files] for place, name in enumerate(schemas)}
    problems = _shard_problems(draft)
    if problems.num_rows:
        tables["failures"].append(f"failures/shards-{tag}.parquet")
        folder.write_table(tables["failures"][-1], problems)
    pieces = list(mapper(partial(_sums, folder), list(zip(tables["images"], tables["metrics"], strict=True))))
    tables["classes"] = [f"classes/{tag}.parquet"]
    classes = summarise(pieces, draft.classes) if pieces else CLASSES.empty_table()
    folder.write_table(tables["classes"][0], classes)
    tables = {**draft.tables, **tables}
    digests = {unit: digest for _, found in made for unit, digest in found.items()}
    news: dict[str, Any] = {
        "tables": tables,
        "columns": columns,
        "shards": [_with_digests(entry, digests) for entry in draft.shards],
        "counts": {name: sum(map(folder.count_rows, tables[name])) for name in ("images", "failures")},
        "status": "complete",
        "revision": 0 if before is None else before.revision + 1,
        "base": None,
    }
    return draft.model_copy(update=news)


def _columns(
    folder: Folder, draft: Manifest, before: Manifest | None, groups: list[list[Unit]], mapper: Mapper
) -> dict[str, str]:
    """Kinds of the user's own columns, by name: wide enough for what is published and for the parts of some units."""
    known = {**draft.columns, **({} if before is None else before.columns)}
    if not known:
        return {}
    return widest(known, (schema for found in mapper(partial(_own_schemas, folder), groups) for schema in found))


def _own_schemas(folder: Folder, units: list[Unit]) -> list[pa.Schema]:
    """The schemas of some units' parts of images, each once. A part that is not there is missed when it is read."""
    found: set[pa.Schema] = set()
    for unit in units:
        with suppress(FileNotFoundError):
            found.add(folder.read_schema(_part("images", unit.number)).remove_metadata())
    return list(found)


def _with_digests(entry: ShardEntry, digests: dict[int, str]) -> ShardEntry:
    """An entry with the digests of those of its units that were published now."""
    units = range(entry.first_unit, entry.first_unit + len(entry.index["starts"]))
    if not any(unit in digests for unit in units):
        return entry
    before = entry.digests or [""] * len(units)
    found = [digests.get(unit, old) for unit, old in zip(units, before, strict=True)]
    return entry.model_copy(update={"digests": found})


def _copy_classes(folder: Folder, manifest: Manifest) -> None:
    """Write `classes.parquet` beside export.json; again where another run has published meanwhile."""
    while True:
        classes = folder.read(manifest.tables["classes"][0])
        if classes is not None:
            folder.write(CLASS_FILE, classes)
        now = read_manifest(folder, EXPORT)
        if now is None or now.revision == manifest.revision:
            return
        manifest = now


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


def _compact(
    folder: Folder, tag: str, rows_per_unit: int, schemas: dict[str, pa.Schema], units: list[Unit]
) -> tuple[tuple[str, ...], dict[int, str]]:
    """Table files of the parts of some units (metrics, failures, images), and the units' digests.

    Raises:
        StoreError: a unit's commit is not there any more, or is another's.
    """
    pieces: dict[str, list[pa.Table]] = {name: [] for name in schemas}
    digests = {}
    for unit in units:
        for name, schema in schemas.items():
            try:
                part = folder.read_parquet(_part(name, unit.number))
            except FileNotFoundError:
                raise StoreError(_lost(folder, unit, "is not there any more")) from None
            pieces[name].append(conform(part, schema))
            # Each part has it; the last one that is read is the commit.
            digests[unit.number] = _digest(part.schema)
        _check_commit(folder, unit, rows_per_unit, [pieces[name][-1] for name in ("images", "failures")])
    files = tuple(_file(name, units, tag) for name in schemas)
    for file, tables in zip(files, pieces.values(), strict=True):
        folder.write_table(file, pa.concat_tables(tables))
    return files, digests


def _check_commit(folder: Folder, unit: Unit, rows_per_unit: int, tables: list[pa.Table]) -> None:
    """Whether a unit's images and failures are those that the plan has there. Raises StoreError."""
    rows, shards = ([value for table in tables for value in table[name].to_pylist()] for name in ("row", "shard"))
    first = unit.number * rows_per_unit
    if sorted(rows) != list(range(first, first + unit.count)) or set(shards) != {unit.url}:
        raise StoreError(_lost(folder, unit, "holds other rows"))


def _lost(folder: Folder, unit: Unit, what: str) -> str:
    return (
        f"{folder.url}/{_part('images', unit.number)}, the commit of {unit.count} images of {unit.url}, {what}; "
        "nothing is published. Remove that file, if it is there, and run the same command again: the unit is done anew"
    )


def _without(
    folder: Folder,
    tag: str,
    rows_per_unit: int,
    schemas: dict[str, pa.Schema],
    ended: list[Retired],
    files: tuple[str, ...],
) -> tuple[str, ...]:
    """The same files where no row of theirs belongs to the ended units, else new ones without those rows."""
    tables = [folder.read_table(file, schema) for file, schema in zip(files, schemas.values(), strict=True)]
    gone = [_rows_in(table["row"], ended, rows_per_unit) for table in tables]
    if not any(pc.any(rows).as_py() for rows in gone):
        return files
    renewed = tuple(_renewed(file, tag) for file in files)
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


def _file(name: str, units: list[Unit], tag: str) -> str:
    return f"{name}/unit-{units[0].number:08d}.{tag}.parquet"


def _renewed(file: str, tag: str) -> str:
    return f"{file.split('.')[0]}.{tag}.parquet"


def _digest(schema: pa.Schema) -> str:
    return str((schema.metadata or {}).get(DIGEST, b"").decode())


def _part(name: str, unit: int) -> str:
    return f"parts/{name}/{unit:08d}.parquet"
