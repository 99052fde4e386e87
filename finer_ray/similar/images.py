"""Similar images: those of an export that are most like one of them, as a table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.errors import QueryError
from finer_ray.similar.index import candidates, open_index
from finer_ray.similar.nearest import nearest
from finer_ray.store.query import connect
from finer_ray.store.reading import Export
from finer_ray.store.vectors import By, read_vectors, vector_blocks

LINES = """\
SELECT row, key, label.name AS label, predicted.name AS predicted, similarity
FROM found JOIN images USING (row)
LEFT JOIN names AS label ON label.class = images.label
LEFT JOIN names AS predicted ON predicted.class = images.predicted
ORDER BY similarity DESC, row"""


def similar_images(
    export: Export, row: int, count: int = 10, by: By = "embedding", index: Path | None = None
) -> pa.Table:
    """The images whose vectors have the largest cosine with that of one image, without that image.

    Args:
        export: any.
        row: of the image that others are compared with.
        count: how many images are found, at the most.
        by: `embedding`, what the model says of the whole image; or `map`, what it sees where the finer map is high
            (`output.map_embedding`).
        index: a folder for an index (see `finer_ray.similar.index`), which finds nearly always the same; all images
            are compared when None.

    Returns:
        The columns row, key, label and predicted (names of classes), similarity (the cosine, float), the most
        similar first.

    Raises:
        QueryError: no image has this row; its vector has no direction, being 0 or not finite; or USearch, of which an
            index is made, is not installed. ExportError: the export has no such vectors.

    >>> from finer_ray.store.reading import open_export
    >>> found = similar_images(open_export("demo_export"), row=0, count=3)
    >>> found.column_names
    ['row', 'key', 'label', 'predicted', 'similarity']
    """
    wanted = _vector(export, row, by)
    if index is None:
        blocks = ((batch["row"].to_numpy(), vectors) for batch, vectors in vector_blocks(export, by))
    else:
        rows = candidates(open_index(export, by, index), wanted, 1 + count)
        blocks = ((own, read_vectors(export, by, own)) for own in [rows])
    rows, cosines = nearest(blocks, wanted, 1 + count)
    others = np.flatnonzero(rows != row)[:count]
    with connect(export) as connection:
        connection.register("found", pa.table({"row": rows[others], "similarity": cosines[others]}))
        return connection.sql(LINES).to_arrow_table()


def _vector(export: Export, row: int, by: By) -> NDArray[np.float16]:
    """The vector of an image. Raises QueryError where it has no direction."""
    with connect(export) as connection:
        if not connection.execute("SELECT 1 FROM images WHERE row = ?", [row]).fetchall():
            raise QueryError(f"no image has the row {row}")
    vector: NDArray[np.float16] = read_vectors(export, by, [row])[0]
    if not vector.any() or not np.isfinite(vector).all():
        why = "its finer map is empty" if by == "map" else "its embedding is 0, or beyond float16"
        raise QueryError(f"nothing is similar to row {row}: {why}")
    return vector
