"""Vectors of images, the embedding or the map embedding, in blocks, so that an export may exceed memory."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.store.reading import Export, Rows

By = Literal["embedding", "map"]
# Their arrays.
ARRAYS: dict[By, str] = {"embedding": "embedding", "map": "map_embedding"}


def read_vectors(export: Export, by: By, rows: Rows) -> NDArray[np.float16]:
    """Vectors of n rows, (n, E) or (n, D) float16. Raises ExportError where the export has none, with what to do."""
    return export.map_embedding(rows) if by == "map" else export.embedding(rows)


def vector_blocks(
    export: Export, by: By, columns: Sequence[str] = ()
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float16]]]:
    """All images in their order, some thousand at a time.

    Args:
        export: any.
        by: which vectors are read, a key of `ARRAYS`.
        columns: names of columns of the table `images`, beside `row`.

    Yields:
        These columns of n images, and their vectors.

    Raises:
        ExportError: the export has no such vectors.
    """
    for batch in export.batches("images", ["row", *columns]):
        yield batch, read_vectors(export, by, batch["row"].to_numpy())
