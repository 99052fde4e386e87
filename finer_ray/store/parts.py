"""Parts: the Parquet pieces that units commit, and the tables that they become."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from finer_ray.store.files import Folder
from finer_ray.store.manifest import Manifest
from finer_ray.store.tables import FAILURES, IMAGES, METRICS, PARTS, summarise

UNITS_PER_FILE = 1024


def commit(folder: Folder, unit: int, tables: dict[str, pa.Table]) -> None:
    """Commit a unit whose Zarr objects are written: its part of `images` comes last and is the commit."""
    for name, schema in PARTS.items():
        folder.write_table(_part(name, unit), tables[name].cast(schema))


def committed(folder: Folder) -> set[int]:
    """Units that have a commit and are not yet in the tables."""
    return {int(name.removesuffix(".parquet")) for name in folder.names("parts/images")}


def failure_count(folder: Folder, units: Iterable[int]) -> int:
    """Lines of failures of some committed units."""
    return sum(folder.read_table(_part("failures", unit), FAILURES).num_rows for unit in units)


def publish(folder: Folder, units: list[int], manifest: Manifest) -> Manifest:
    """Turn the parts of units into table files and summarise the classes; files published before stay.

    Returns:
        The manifest with the new files and counts. The caller writes it, which is what publishes them.
    """
    tables = {name: list(files) for name, files in manifest.tables.items()}
    for first in range(0, len(units), UNITS_PER_FILE):
        group = units[first : first + UNITS_PER_FILE]
        for name, schema in PARTS.items():
            pieces = [folder.read_table(_part(name, unit), schema) for unit in group]
            file = f"{name}/unit-{group[0]:08d}.parquet"
            folder.write_table(file, pa.concat_tables(pieces))
            tables.setdefault(name, []).append(file)
    tables["failures"] = [name for name in tables.get("failures", []) if not name.startswith("failures/shards-")]
    problems = _shard_problems(manifest)
    if problems.num_rows:
        # Each run writes all of them anew.
        file = f"failures/shards-{len(manifest.shards):08d}.parquet"
        folder.write_table(file, problems)
        tables["failures"].append(file)
    images = read_tables(folder, tables.get("images", []), IMAGES)
    metrics = read_tables(folder, tables.get("metrics", []), METRICS)
    folder.write_table("classes.parquet", summarise(images, metrics, manifest.classes))
    failures = read_tables(folder, tables.get("failures", []), FAILURES)
    tables["classes"] = ["classes.parquet"]
    counts = {"images": images.num_rows, "failures": failures.num_rows}
    return manifest.model_copy(update={"tables": tables, "counts": counts, "status": "complete"})


def read_tables(folder: Folder, files: list[str], schema: pa.Schema) -> pa.Table:
    """Several files as one table."""
    return pa.concat_tables([schema.empty_table(), *(folder.read_table(file, schema) for file in files)])


def iter_tables(folder: Folder, files: list[str], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of several files, batch by batch."""
    for name in files:
        yield from folder.iter_table(name, columns)


def discard(folder: Folder) -> None:
    """Remove what published units no longer need."""
    folder.remove("parts")


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
