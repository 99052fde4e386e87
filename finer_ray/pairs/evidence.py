"""Evidence for a class over a reference, cell by cell, and its sums over images by pair: numpy alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pairs whose weights are in memory at a time.
PAIRS_AT_A_TIME = 4096


def evidence(basis: NDArray[np.floating[Any]], scale: NDArray[np.floating[Any]], gamma: float) -> NDArray[np.float64]:
    """M_0 - gamma M_k, cell by cell: what speaks for the target over its k-th reference.

    Args:
        basis: (n, 1+K, h, w), as stored; NaN where there is no reference, and beyond an image's own grid.
        scale: (n,), of `basis_scale`.
        gamma: strength of the comparison.

    Returns:
        (n, K, h, w); NaN where one of the two is.

    >>> evidence(np.array([[[[4.0]], [[1.0]], [[np.nan]]]]), np.array([0.5]), 2.0).ravel()
    array([ 1., nan])
    """
    maps = basis.astype(np.float64) * scale.astype(np.float64)[:, None, None, None]
    return maps[:, :1] - gamma * maps[:, 1:]


class PairSums:
    """Sums over images by pair, of images that come a batch at a time, and a pair's foremost images.

    Sums are added up image by image, so that they do not depend on how images are divided into batches.

    Args:
        pairs: P, how many pairs there are.
        parts: Q, how many parts there are; 0 where images have no part masks.
        named: how many images of each pair `most` and `least` keep.

    Attributes:
        images: (P,) int64, how many.
        gap: (P,) float64, sum of their gaps between two logits.
        compared: (P,) int64, how many of them have evidence.
        evidence, positive: (P,) float64, sums over images and cells of the evidence, and of its positive values.
        on_parts: (P, Q) float64, the positive evidence on each part, of images that show some part.
        with_parts: (P,) float64, all the positive evidence of those images.
        part_cells, all_cells: (P, Q) and (P,) float64, their cells, on each part and in all.
        most, least: images with the largest and the smallest sum of positive evidence.
    """

    def __init__(self, pairs: int, parts: int, named: int) -> None:
        self.images, self.compared = (np.zeros(pairs, np.int64) for _ in range(2))
        self.gap, self.evidence, self.positive, self.with_parts, self.all_cells = np.zeros((5, pairs))
        self.on_parts, self.part_cells = np.zeros((2, pairs, parts))
        self.most, self.least = Foremost(pairs, named), Foremost(pairs, named)

    def add_gaps(self, pair: NDArray[np.integer[Any]], gap: NDArray[np.floating[Any]]) -> None:
        """Add images, whether they have evidence or not.

        Args:
            pair: (m,), of each image, 0 to P - 1.
            gap: (m,), between its two logits.
        """
        np.add.at(self.images, pair, 1)
        np.add.at(self.gap, pair, gap)

    def add_evidence(
        self,
        pair: NDArray[np.integer[Any]],
        row: NDArray[np.integer[Any]],
        cells: NDArray[np.float64],
        parts: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Add the evidence of images.

        Args:
            pair: (m,), of each image, 0 to P - 1.
            row: (m,), of each image.
            cells: (m, h, w), the evidence; NaN beyond an image's own grid, and everywhere where it has none.
            parts: (m, h, w), the part that each cell shows, 1 to Q, or 0; None where images have no part masks.
        """
        # As readers of maps see it: what is written has a value in its upper left cell.
        there = ~np.isnan(cells[:, 0, 0])
        pair, row, cells = pair[there], row[there], cells[there]
        # NaN becomes 0.
        above = np.fmax(cells, 0)
        positive = above.sum((1, 2))
        np.add.at(self.compared, pair, 1)
        np.add.at(self.evidence, pair, np.nansum(cells, axis=(1, 2)))
        np.add.at(self.positive, pair, positive)
        self.most.add(pair, positive, row)
        self.least.add(pair, -positive, row)
        if parts is not None:
            shown = parts[there]
            some = shown.any((1, 2))
            self._add_parts(pair[some], above[some], ~np.isnan(cells[some]), shown[some])

    def _add_parts(
        self, pair: NDArray[Any], above: NDArray[np.float64], own: NDArray[np.bool_], parts: NDArray[Any]
    ) -> None:
        count = self.on_parts.shape[1]
        for values, by_part, in_all in (
            (above, self.on_parts, self.with_parts),
            (own.astype(np.float64), self.part_cells, self.all_cells),
        ):
            np.add.at(by_part, pair, sums_by_part(values, parts, count))
            np.add.at(in_all, pair, values.sum((1, 2)))


class Foremost:
    """Of each pair the k images with the largest values, of images that come a batch at a time.

    Args:
        pairs: P, how many pairs there are.
        k: how many images of each are kept.

    Attributes:
        values: (P, k) float64, the largest first; -inf where a pair has fewer images.
        rows: (P, k) int64, the images' rows, of equal values the first row first; -1 where a pair has fewer.

    >>> foremost = Foremost(1, 2)
    >>> foremost.add(np.array([0, 0, 0]), np.array([1.0, 3.0, 2.0]), np.array([10, 11, 12]))
    >>> foremost.rows.tolist()
    [[11, 12]]
    """

    def __init__(self, pairs: int, k: int) -> None:
        self.values, self.rows = np.full((pairs, k), -np.inf), np.full((pairs, k), -1, np.int64)

    def add(
        self, pair: NDArray[np.integer[Any]], values: NDArray[np.floating[Any]], row: NDArray[np.integer[Any]]
    ) -> None:
        """Add some images.

        Args:
            pair: (m,), of each image, 0 to P - 1.
            values: (m,), finite.
            row: (m,), of each image.
        """
        order = np.lexsort((row, -values, pair))
        pair, values, row = pair[order], values[order], row[order]
        found, first, place = np.unique(pair, return_index=True, return_inverse=True)
        k = self.values.shape[1]
        rank = np.arange(len(pair)) - first[place]
        kept = rank < k
        # Beside those that are kept already, the best of the batch; then the best of both.
        both_values = np.concatenate([self.values[found], np.full((len(found), k), -np.inf)], axis=1)
        both_rows = np.concatenate([self.rows[found], np.full((len(found), k), -1)], axis=1)
        both_values[place[kept], k + rank[kept]], both_rows[place[kept], k + rank[kept]] = values[kept], row[kept]
        order = np.lexsort((both_rows, -both_values), axis=1)[:, :k]
        self.values[found] = np.take_along_axis(both_values, order, 1)
        self.rows[found] = np.take_along_axis(both_rows, order, 1)


def sums_by_part(values: NDArray[np.float64], parts: NDArray[np.integer[Any]], count: int) -> NDArray[np.float64]:
    """Sums over the cells of each part, (n, count).

    Args:
        values: (n, h, w).
        parts: (n, h, w), the part that each cell shows, 1 to `count`, or 0 for none.
        count: Q, how many parts there are.

    >>> sums_by_part(np.array([[[1.0, 2.0, 4.0]]]), np.array([[[2, 0, 2]]]), 2).tolist()
    [[0.0, 5.0]]
    """
    place = np.arange(len(values))[:, None, None] * (1 + count) + parts
    sums = np.bincount(place.ravel(), values.ravel(), len(values) * (1 + count))
    return sums.reshape(len(values), 1 + count)[:, 1:]


def cosines(weight: NDArray[np.floating[Any]], pairs: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Cosine of two classes' weights, for some pairs of classes.

    Args:
        weight: (C, E), a row per class.
        pairs: (P, 2).

    Returns:
        (P,); NaN where one of the two is no class, 0 to C - 1, or its weights are all 0.

    >>> cosines(np.array([[1.0, 0.0], [3.0, 3.0]]), np.array([[0, 1], [0, 2]]))
    array([0.70710677,        nan], dtype=float32)
    """
    result = np.full(len(pairs), np.nan, np.float32)
    for first in range(0, len(pairs), PAIRS_AT_A_TIME):
        places = first + np.flatnonzero((pairs[first : first + PAIRS_AT_A_TIME] < len(weight)).all(1))
        left, right = (weight[pairs[places, side]].astype(np.float64) for side in (0, 1))
        lengths = np.sqrt(np.einsum("pe,pe->p", left, left) * np.einsum("pe,pe->p", right, right))
        result[places] = ratio(np.einsum("pe,pe->p", left, right), lengths)
    return result


def ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """above / below, of one shape once they are broadcast; NaN where below is 0."""
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
