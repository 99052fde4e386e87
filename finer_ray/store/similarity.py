"""Similarity: how close a classifier's classes are to each other, kept where its weights are not at hand."""

import numpy as np
import pyarrow as pa

from finer_ray.lazy import Tensor
from finer_ray.metrics.weight_similarity import similarity_curve
from finer_ray.store.storage import Folder
from finer_ray.store.tables import SIMILARITY

SIMILARITY_FILE = "similarity.parquet"


def similarity_table(weight: Tensor) -> pa.Table:
    """The sorted similarity curve of a classifier, a line per rank, with the schema SIMILARITY; where all classes are
    in it, without the column `drawn`, which readers take for null.

    Args:
        weight: (C, E) float, a row per class, C >= 2.
    """
    curve = similarity_curve(weight)
    # Float32 also because the last bits of a cosine depend on the number of threads.
    columns = {name: getattr(curve, name).float().numpy() for name in ("mean", "std", "low", "high")}
    columns["rank"] = curve.ranks.int().numpy()
    if curve.drawn is not None:
        columns["drawn"] = np.full(len(curve.ranks), curve.drawn)
    return pa.table(columns, pa.schema([field for field in SIMILARITY if field.name in columns]))


def classes_of(similarity: pa.Table) -> str:
    """How many classes a table is of, in words: `1000 of 867455 classes (drawn at random)`, or `200 classes`."""
    count = similarity["rank"][-1].as_py() + 1
    drawn = similarity["drawn"][0].as_py() if "drawn" in similarity.column_names else None
    return f"{count} classes" if drawn is None else f"{drawn} of {count} classes (drawn at random)"


def similarity_files(weight: Tensor) -> list[str]:
    """Files of the table, for the manifest to list: none where all weights are zero, which are no classifier's
    (`model.head: none`)."""
    return [SIMILARITY_FILE] if weight.any() else []


def write_similarity(folder: Folder, weight: Tensor) -> None:
    """Write the files that `similarity_files` names."""
    for file in similarity_files(weight):
        folder.write_table(file, similarity_table(weight))
