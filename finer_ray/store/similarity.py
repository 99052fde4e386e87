"""Similarity: how close a classifier's classes are to each other, kept where its weights are not at hand."""

import pyarrow as pa
from torch import Tensor

from finer_ray.metrics.weight_similarity import similarity_curve
from finer_ray.store.storage import Folder
from finer_ray.store.tables import SIMILARITY

SIMILARITY_FILE = "similarity.parquet"


def similarity_table(weight: Tensor) -> pa.Table:
    """The sorted similarity curve of a classifier, a line per rank, with the schema SIMILARITY.

    Args:
        weight: (C, E) float, a row per class, C >= 2.
    """
    curve = similarity_curve(weight)
    # Float32 also because the last bits of a cosine depend on the number of threads.
    columns = {name: getattr(curve, name).float().numpy() for name in ("mean", "std", "low", "high")}
    return pa.table({"rank": pa.array(range(1, len(weight)), pa.int32()), **columns}, SIMILARITY)


def similarity_files(weight: Tensor) -> list[str]:
    """Files of the table, for the manifest to list: none where all weights are zero, which are no classifier's
    (`model.head: none`)."""
    return [SIMILARITY_FILE] if weight.any() else []


def write_similarity(folder: Folder, weight: Tensor) -> None:
    """Write the files that `similarity_files` names."""
    for file in similarity_files(weight):
        folder.write_table(file, similarity_table(weight))
