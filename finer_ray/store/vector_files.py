"""Vectors of images as Parquet files with the columns uuid and emb, as tools that explore embeddings read them."""

import numpy as np
import pyarrow as pa

from finer_ray.errors import ExportError
from finer_ray.store.query import connect
from finer_ray.store.reading import Export
from finer_ray.store.storage import Folder
from finer_ray.store.vectors import ARRAYS, By, read_vectors, vector_blocks

# Of one file, before compression.
FILE_BYTES = 2**27
SCHEMA = pa.schema(
    [
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("emb", pa.list_(pa.float32()), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)


def write_vector_files(export: Export, by: By, url: str) -> tuple[list[str], bool]:
    """Write the vectors of all images, in their order, some 128 MiB a file; memory holds one file.

    Args:
        export: any.
        by: which vectors are written, a key of `ARRAYS`.
        url: a folder that is new or empty, or its URL.

    Returns:
        Names of the files, each with the number of files in it; and whether `uuid` is the images' keys. Where two
        images share a key it is SHARD#INDEX, the columns `shard` and `index` of images.

    Raises:
        ExportError: the export has no such vectors, or the folder holds something.
    """
    folder = Folder(url)
    if there := folder.names("", suffix=""):
        raise ExportError(f"{url} holds {there[0]!r}, and nothing there is overwritten: name an empty folder with --to")
    size = read_vectors(export, by, []).shape[1]
    with connect(export) as connection:
        [(images, keys)] = connection.sql("SELECT count(*), count(DISTINCT key) FROM images").fetchall()
    by_key, per_file = images == keys, max(1, FILE_BYTES // (4 * size))
    count = max(1, -(-images // per_file))
    names = [f"{ARRAYS[by]}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    waiting, lines = [SCHEMA.empty_table()], 0
    left = iter(names)
    for batch, vectors in vector_blocks(export, by, ["key", "shard", "index"]):
        waiting.append(_lines(batch, vectors, by_key))
        lines += len(batch)
        while lines >= per_file:
            whole = pa.concat_tables(waiting)
            folder.write_table(next(left), whole[:per_file])
            waiting, lines = [whole[per_file:]], lines - per_file
    if lines or not images:
        folder.write_table(next(left), pa.concat_tables(waiting))
    return names, by_key


def _lines(batch: pa.RecordBatch, vectors: np.ndarray, by_key: bool) -> pa.Table:
    places = zip(batch["shard"].to_pylist(), batch["index"].to_pylist(), strict=True)
    uuids = batch["key"] if by_key else [f"{shard}#{index}" for shard, index in places]
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    return pa.table([uuids, pa.ListArray.from_arrays(pa.array(offsets), flat), batch["row"]], schema=SCHEMA)
