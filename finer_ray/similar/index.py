"""Index of all vectors (USearch's HNSW), for more images than are compared one by one.

It lies in a folder of the user's, in a file that is named by the vectors and by the state of the export, so that one of
another state is never taken; such a one stays where it is. What it finds is nearly always the nearest;
`benchmarks/bench_similar.py` says how nearly.
"""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.errors import QueryError
from finer_ray.store.derived import digest
from finer_ray.store.reading import Export
from finer_ray.store.vectors import ARRAYS, By, read_vectors, vector_blocks

if TYPE_CHECKING:
    from usearch.index import Index


def index_path(export: Export, by: By, folder: Path) -> Path:
    """The file of an export's index in a folder."""
    return folder / f"{ARRAYS[by]}-{digest(export.manifest)}.usearch"


def open_index(export: Export, by: By, folder: Path) -> "Index":
    """The index of an export's vectors; it is made, and kept in the folder, where there is none of this state.

    Raises:
        QueryError: USearch is not installed. ExportError: the export has no such vectors.
    """
    try:
        from usearch.index import Index
    except ModuleNotFoundError:
        raise QueryError(
            '--index needs USearch: pip install "finer_ray[index]"; without --index images are compared one by one'
        ) from None
    path = index_path(export, by, folder)
    if not path.exists():
        size = read_vectors(export, by, []).shape[1]
        index: Any = Index(ndim=size, metric="cos", dtype="f16")
        for batch, vectors in vector_blocks(export, by):
            # A vector of 0 is at no distance that orders it.
            there = vectors.any(1) & np.isfinite(vectors).all(1)
            index.add(batch["row"].to_numpy()[there], vectors[there])
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        index.save(str(draft))
        draft.rename(path)
    return Index.restore(str(path), view=True)


def candidates(index: "Index", wanted: NDArray[np.float16], count: int) -> NDArray[np.int64]:
    """Rows whose vectors are probably among the `count` nearest to one vector (E,), in no order that counts."""
    return np.asarray(index.search(wanted, count).keys).astype(np.int64)
