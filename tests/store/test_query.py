"""Queries: the published files and nothing else, at any URL, for reading only."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from finer_ray.errors import ExportError
from finer_ray.store.query import TABLES, connect
from finer_ray.store.reading import Export
from finer_ray.store.tables import SCHEMAS
from tests.probe.exports import write_export

LABELS = [0, 1, None, 1, 0]
COUNTS = {"images": 5, "metrics": 0, "classes": 0, "failures": 2, "similarity": 0, "names": 2}


@pytest.fixture
def made(tmp_path: Path) -> Export:
    embeddings = np.zeros((5, 4), np.float32)
    return write_export(tmp_path / "it's out", embeddings, LABELS, ["cat", "dog"], ["decode", "model"])


def counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    return {name: len(connection.sql(f"FROM {name}").fetchall()) for name in COUNTS}


def test_views_are_the_tables_with_their_types(made: Export) -> None:
    with connect(made) as connection:
        assert counts(connection) == COUNTS
        for name in TABLES:
            found = connection.sql(f'FROM "{name}"').to_arrow_table()
            assert found.schema.names == SCHEMAS[name].names
            assert found.schema.types == SCHEMAS[name].types
        assert connection.sql("FROM images").to_arrow_table().to_pylist() == made.images.to_pylist()
        named = connection.execute("SELECT key, name FROM images JOIN names ON class = label ORDER BY row").fetchall()
    assert named == [("k0", "cat"), ("k1", "dog"), ("k3", "dog"), ("k4", "cat")]


def test_what_the_manifest_does_not_list_is_not_seen(made: Export) -> None:
    """A later run that was killed while it published has left whole files, and half ones."""
    lists = made.manifest.tables["images"]
    stray = Path(made.folder.path("images/unit-99999999.parquet"))
    stray.write_bytes(Path(made.folder.path(lists[0])).read_bytes())
    Path(made.folder.path("failures/unit-99999999.parquet")).write_bytes(b"PAR1 half")
    with connect(made.folder.url) as connection:
        assert counts(connection) == COUNTS


def test_a_column_that_an_older_export_lacks_is_null(made: Export) -> None:
    [file, *_] = made.manifest.tables["images"]
    made.folder.write_table(file, made.folder.read_table(file, SCHEMAS["images"]).drop_columns("height"))
    with connect(made) as connection:
        assert connection.execute("SELECT count(*), count(height) FROM images").fetchall() == [(5, 0)]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{out}/new.csv'",
        "COPY (SELECT 1) TO '{images}' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{images}' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPORT DATABASE '{out}/new'",
        "ATTACH '{out}/new.duckdb' AS other",
        "FROM '{images}'",
        "FROM read_text('{out}/export.json')",
        "FROM glob('{out}/*')",
        "FROM 'http://127.0.0.1:9/x.parquet'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allowed_directories = ['/']",
        "INSERT INTO images SELECT * FROM images",
        "DELETE FROM failures",
        "UPDATE metrics SET row = 1",
        "FROM secret",
    ],
)
def test_nothing_is_written_and_nothing_else_read(made: Export, sql: str) -> None:
    out = Path(made.folder.root)
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    secret = pa.table({"x": [1]})
    places = {"out": str(out).replace("'", "''"), "images": made.folder.path(made.manifest.tables["images"][0])}
    places["images"] = places["images"].replace("'", "''")
    with connect(made) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql.format(**places)).fetchall()
    assert secret.num_rows == 1
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before


def test_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no export"):
        connect(str(tmp_path))


def test_in_memory(made: Export) -> None:
    name = secrets.token_hex(4)
    fsspec.filesystem("memory").put(made.folder.root, f"/{name}", recursive=True)
    with connect(f"memory://{name}") as connection:
        assert counts(connection) == COUNTS
        assert connection.execute("SELECT key FROM images WHERE row = 3").fetchall() == [("k3",)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on this machine, and a bucket in it."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "k", "secret": "s", "use_listings_cache": False}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").mkdir("exports")
    yield "s3://exports/train"
    server.stop()


def test_on_s3(made: Export, bucket: str) -> None:
    system = fsspec.filesystem("s3")
    for path in Path(made.folder.root).rglob("*"):
        if path.is_file():
            system.put_file(str(path), f"{bucket}/{path.relative_to(made.folder.root)}")
    with connect(bucket) as connection:
        assert counts(connection) == COUNTS
        assert connection.execute("SELECT key FROM images WHERE row = 3").fetchall() == [("k3",)]
    assert json.loads(system.cat_file(f"{bucket}/export.json"))["counts"] == {"images": 5, "failures": 2}
