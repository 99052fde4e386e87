"""Clusters of cells by their features, each cell with its evidence as its weight; and how stable they are."""

import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

# Fewer cells than this for each cluster, and there are fewer clusters.
CELLS_PER_CLUSTER = 2
# Starts of k-means, of which the best is kept. With one alone resamples would seem less stable than they are.
STARTS = 4


def cluster(
    features: NDArray[np.float32], weights: NDArray[np.float64], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """k-means by scikit-learn; the same input gives the same clusters.

    Args:
        features: (n, F) of n >= 1 cells.
        weights: (n,), positive.
        count: of clusters, at most; at most one for every CELLS_PER_CLUSTER cells, but one at least.
        seed: of the starts, which are drawn as k-means++.

    Returns:
        (n,) the cluster of each cell, from 0; all of 0 to the largest occur.

    >>> cluster(np.float32([[0, 1]] * 4 + [[1, 0]] * 4), np.ones(8), count=2).tolist()
    [1, 1, 1, 1, 0, 0, 0, 0]
    """
    wanted = min(count, max(1, len(features) // CELLS_PER_CLUSTER))
    means = KMeans(wanted, n_init=STARTS, random_state=seed)
    # With several threads the order of sums, and so their last bits, differ from run to run.
    with _threads().limit(limits=1), warnings.catch_warnings():
        # Of fewer different cells than clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = means.fit(features, sample_weight=weights).labels_
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


@cache
def _threads() -> ThreadpoolController:
    """Those of scikit-learn; to look for them takes as long as a small clustering."""
    return ThreadpoolController()


def stability(
    features: NDArray[np.float32],
    weights: NDArray[np.float64],
    images: NDArray[np.integer],
    labels: NDArray[np.int64],
    count: int,
    resamples: int,
    seed: int = 0,
) -> NDArray[np.float64]:
    """How well each cluster is found again when the images are drawn anew (Hennig 2007, `clusterboot`).

    Images are drawn with replacement, as many as there are; cells of one that is drawn m times weigh m times as much.
    They are clustered again, and each cluster is compared, by its cells that were drawn, with the new one that is most
    like it (Jaccard: evidence of cells in both / evidence of cells in either).

    Args:
        features, weights, count, seed: as of `cluster`.
        images: (n,) which image each cell is of.
        labels: (n,) as `cluster` gave them.
        resamples: how many draws.

    Returns:
        (k,) for each cluster the mean over the draws of which it has cells, 0 to 1; NaN where there are none, and where
        there is one image alone, which every draw would repeat.

    >>> features = np.float32([[0, 1], [1, 0]] * 20)
    >>> weights, images = np.ones(40), np.arange(40) // 2
    >>> stability(features, weights, images, cluster(features, weights, 2), count=2, resamples=5).tolist()
    [1.0, 1.0]
    """
    known, place = np.unique(images, return_inverse=True)
    found = np.full((resamples, int(labels.max()) + 1), np.nan)
    random = np.random.default_rng(seed)
    for row in found if len(known) > 1 else ():
        times = np.bincount(random.integers(len(known), size=len(known)), minlength=len(known))[place]
        drawn = times > 0
        again = cluster(features[drawn], (weights * times)[drawn], count, seed)
        row[:] = best_overlaps(labels[drawn], again, weights[drawn], len(row))
    known_draws = ~np.isnan(found)
    sums, draws = np.where(known_draws, found, 0).sum(0), known_draws.sum(0)
    return np.divide(sums, draws, out=np.full(len(sums), np.nan), where=draws > 0)


def best_overlaps(
    labels: NDArray[np.int64], others: NDArray[np.int64], weights: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """For each of `count` clusters of some cells the largest overlap with one of another clustering of them: weight of
    the cells in both / weight of those in either.

    Args:
        labels, others: (n,) the cluster of each cell in the one and in the other.
        weights: (n,) of the cells, positive.
        count: of clusters in the first.

    Returns:
        (count,) 0 to 1; NaN for a cluster without cells.

    >>> best_overlaps(np.array([0, 0, 0, 1]), np.array([5, 5, 2, 2]), np.ones(4), 3).tolist()
    [0.6666666666666666, 0.5, nan]
    """
    both = np.zeros((count, int(others.max()) + 1))
    np.add.at(both, (labels, others), weights)
    own = both.sum(1, keepdims=True)
    either = own + both.sum(0) - both
    overlaps = np.divide(both, either, out=np.zeros_like(both), where=either > 0).max(1)
    return np.where(own[:, 0] > 0, overlaps, np.nan)
