"""Clusters and their stability, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer_ray.traits.clusters import CELLS_PER_CLUSTER, best_overlaps, cluster, stability


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_every_label_occurs_and_few_cells_have_few_clusters(cells: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Of few different values, so that there may be fewer kinds of cells than clusters.
    features = random.integers(0, 3, (cells, 2)).astype(np.float32)
    labels = cluster(features, random.uniform(0.1, 1, cells), count)
    found = np.unique(labels)
    assert found.tolist() == list(range(len(found)))
    assert 1 <= len(found) <= min(count, max(1, cells // CELLS_PER_CLUSTER))


def test_weights_decide_where_a_cluster_lies() -> None:
    """Of points 0, 1 and 2.1 with two clusters, the odd one is the farther one, unless the others are heavy."""
    features = np.repeat(np.float32([[0], [1], [2.1]]), 4, axis=0)
    light = cluster(features, np.ones(12), 2)
    heavy = cluster(features, np.repeat([100.0, 100.0, 1.0], 4), 2)
    assert light[0] == light[4] != light[8]
    assert heavy[0] != heavy[4] == heavy[8]


def test_overlaps_are_of_weight() -> None:
    labels, others, weights = np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([3.0, 1.0, 2.0])
    assert best_overlaps(labels, others, weights, 2) == pytest.approx([3 / 4, 2 / 3])


def test_a_single_image_has_no_stability() -> None:
    features = np.eye(8, dtype=np.float32)
    labels = np.zeros(8, np.int64)
    assert np.isnan(stability(features, np.ones(8), np.zeros(8, int), labels, 1, 5)).all()
    assert np.isnan(stability(features, np.ones(8), np.arange(8), labels, 1, 0)).all()
