"""Queries: an export's tables in DuckDB, for reading only."""

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from finer_ray.store import derived
from finer_ray.store.failures import unpublished_parts
from finer_ray.store.manifest import EXPORT, PLAN, read_manifest
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tables import DERIVED, part_schemas
from finer_ray.store.vector_view import VECTOR_VIEWS, add_vector_views

TABLES = ("images", "metrics", "classes", "failures", "similarity", "targets", "target_metrics", *DERIVED)
VIEWS = (*TABLES, "names", *VECTOR_VIEWS)
NAMES = pa.schema([pa.field("class", pa.int32(), nullable=False), pa.field("name", pa.string(), nullable=False)])


def connect(export: str | Export, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the views images, metrics, classes, failures, similarity, targets, target_metrics,
    pairs, traits, names, embeddings and map_embeddings of an export.

    Each view holds exactly the files that the manifest lists, so that what a run has not published yet is not seen;
    that of a derived table (`finer_ray.store.derived`) is empty until the table is made of what is published. Its
    columns are those of `finer_ray.store.tables` and the user's own, empty where there is no file. `names` has the
    columns class and name, in which `predicted`, `target`, `label` and `references` point. The vectors of `embeddings`
    and `map_embeddings` are read from Zarr when a query takes them, and of its rows alone. Arrow reads the files, from
    any fsspec URL; DuckDB itself has no access to files, networks or extensions, and its settings are locked. Tables
    that a statement creates lie in memory.

    Args:
        export: an open export, or its folder or URL.
        threads: of DuckDB; all cores when None.

    Raises:
        ExportError: there is no finished export.

    >>> with connect("demo_export") as connection:
    ...     connection.sql("SELECT map, count(*) FROM metrics GROUP BY map ORDER BY map").fetchall()
    [('finer_gradcam', 12), ('gradcam', 12)]
    """
    made = open_export(export) if isinstance(export, str) else export
    options = {"enable_external_access": "false", "temp_directory": ""}
    connection = duckdb.connect(config=options if threads is None else {**options, "threads": str(threads)})
    for name in TABLES:
        listed = derived.files(made, name) if name in DERIVED else made.manifest.tables.get(name, [])
        connection.register(name, _dataset(made.folder, listed, made.schemas[name]))
    connection.register("names", _names(made.manifest.classes))
    add_vector_views(connection, made)
    connection.execute("SET lock_configuration = true")
    return connection


def open_committed(url: str) -> Export:
    """An export as far as it is: what is published, or where nothing is yet, what the run has committed so far.

    Of the latter, the manifest's status is `running`; its tables are parts, which publishing removes.

    Raises:
        ExportError: there is none.
    """
    folder = Folder(url)
    plan = read_manifest(folder, PLAN)
    if plan is None or read_manifest(folder, EXPORT) is not None:
        return open_export(url)
    names = unpublished_parts(folder, None, plan)
    parts = {table: [f"parts/{table}/{name}" for name in names] for table in part_schemas(plan.layout.targets)}
    # Tables that the plan lists, and that the run may not have written yet.
    others = {table: [file for file in files if folder.exists(file)] for table, files in plan.tables.items()}
    return Export(folder, plan.model_copy(update={"tables": {**others, **parts}}))


def _dataset(folder: Folder, files: list[str], schema: pa.Schema) -> ds.Dataset | pa.Table:
    if not files:
        return schema.empty_table()
    system = LocalFileSystem() if folder.local else PyFileSystem(FSSpecHandler(folder.fs))
    return ds.dataset([folder.path(name) for name in files], schema=schema, format="parquet", filesystem=system)


def _names(classes: list[str]) -> pa.Table:
    return pa.table([range(len(classes)), classes], schema=NAMES)
