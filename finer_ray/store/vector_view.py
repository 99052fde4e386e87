"""Vectors of images as views of DuckDB: read when a query takes them, and of the rows that it takes alone."""

from collections.abc import Callable

import duckdb
import numpy as np
import pyarrow as pa

from finer_ray.store.reading import Export
from finer_ray.store.vectors import ARRAYS, By, read_vectors

VECTOR_VIEWS: dict[str, By] = {"embeddings": "embedding", "map_embeddings": "map"}


def add_vector_views(connection: duckdb.DuckDBPyConnection, export: Export) -> None:
    """Add the views embeddings (row, embedding) and map_embeddings (row, map_embedding) to a connection that has
    `images`; empty where the export has no such vectors. A vector is a `FLOAT[n]`."""
    images = connection.view("images")
    for view, by in VECTOR_VIEWS.items():
        name = ARRAYS[by]
        size = getattr(export.manifest.layout, name)
        if size is None:
            images.filter("false").project(f"row, NULL::FLOAT[] AS {name}").create_view(view)
            continue
        # A function of the row: as a table of its own all vectors would be read for a count, too.
        read = f"read_{name}"
        connection.create_function(read, _reader(export, by, size), ["BIGINT"], f"FLOAT[{size}]", type="arrow")
        images.project(f"row, {read}(row) AS {name}").create_view(view)


def _reader(export: Export, by: By, size: int) -> Callable[[pa.ChunkedArray], pa.Array]:
    def read(rows: pa.ChunkedArray) -> pa.Array:
        vectors = read_vectors(export, by, rows.to_numpy()).astype(np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size)

    return read
