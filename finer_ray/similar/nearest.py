"""Nearest vectors by cosine, exactly, block by block: memory holds one block."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Rows (n,) and their vectors (n, E).
Block = tuple[NDArray[np.int64], NDArray[np.float16]]


def nearest(
    blocks: Iterable[Block], wanted: NDArray[np.float16], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The vectors with the largest cosine to one vector.

    Args:
        blocks: all vectors there are.
        wanted: (E,). A vector of length 0 has no direction: nothing is near it, and it is near nothing.
        count: how many are found, at the most.

    Returns:
        Rows and cosines, at most `count` of them, the largest first; of equal ones the lower row.

    >>> vectors = np.array([[1, 0], [3, 4], [0, 0], [0, 2]], np.float16)
    >>> nearest([(np.array([10, 11, 12, 13]), vectors)], vectors[3], count=2)
    (array([13, 11]), array([1. , 0.8], dtype=float32))
    """
    direction = _directions(wanted[None])[0]
    rows, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
    for block, vectors in blocks:
        found = _directions(vectors) @ direction
        there = np.isfinite(found)
        rows, cosines = np.concatenate([rows, block[there]]), np.concatenate([cosines, found[there]])
        best = np.lexsort((rows, -cosines))[:count]
        rows, cosines = rows[best], cosines[best]
    return rows, cosines


def _directions(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Vectors (n, E) as float32 of length 1; NaN of length 0."""
    values = vectors.astype(np.float32)
    with np.errstate(invalid="ignore"):
        directions: NDArray[np.float32] = values / np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return directions
