"""Similarity: how close a classifier's classes are to each other, kept where its weights are not at hand."""

import pyarrow as pa
from torch import Tensor

from finer_ray.metrics.similarity import similarity_curve
from finer_ray.store.files import Folder
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


def write_similarity(folder: Folder, weight: Tensor) -> list[str]:
    """Write an export's table of similarity; returns the files for the manifest to list.

    Weights that are zero throughout are no classifier's (`model.head: none`): there is no file then.
    """
    if not weight.any():
        return []
    folder.write_table(SIMILARITY_FILE, similarity_table(weight))
    return [SIMILARITY_FILE]
