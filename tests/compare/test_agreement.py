"""How alike two maps are, against formulas written out."""

import numpy as np
import pytest
from scipy.ndimage import center_of_mass

from finer_ray.compare.agreement import correlation, shift, top_overlap

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def maps() -> Pair:
    a, b = np.random.default_rng(0).random((2, 6, 9, 12))
    return a, b


def test_correlation_is_numpys(maps: Pair) -> None:
    a, b = maps
    expected = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(correlation(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(correlation(a, 1e-30 * b), expected, rtol=1e-12)


def test_overlap_is_that_of_sorted_points(maps: Pair) -> None:
    a, b = maps
    most = int(np.ceil(0.2 * a[0].size))
    expected = []
    for x, y in zip(a, b, strict=True):
        high = [set(np.argsort(values.ravel())[-most:].tolist()) for values in (x, y)]
        expected.append(len(high[0] & high[1]) / len(high[0] | high[1]))
    np.testing.assert_allclose(top_overlap(a, b, 0.2), expected)


def test_points_of_zero_are_never_high() -> None:
    a, b = np.zeros((2, 1, 10, 10))
    a[0, 0, 0], b[0, 0, 0], b[0, 9, 9] = 1, 1, 2
    assert top_overlap(a, b).tolist() == [0.5]


def test_a_map_agrees_with_itself_exactly(maps: Pair) -> None:
    for a in (maps[0], maps[0].astype(np.float32)):
        np.testing.assert_array_equal(correlation(a, a), np.ones(6))
        np.testing.assert_array_equal(top_overlap(a, a), np.ones(6))
        np.testing.assert_array_equal(shift(a, a), np.zeros((6, 2)))


def test_a_centre_moves_by_its_share_of_each_side(maps: Pair) -> None:
    centres = [np.array([center_of_mass(heat) for heat in side]) for side in maps]
    np.testing.assert_allclose(shift(*maps), ((centres[1] - centres[0]) / (9, 12))[:, ::-1])


def test_what_is_flat_agrees_with_nothing() -> None:
    some, flat = np.eye(4)[None], np.zeros((1, 4, 4))
    assert correlation(some, flat).tolist() == [0.0] == correlation(flat, some).tolist()
    assert top_overlap(some, flat).tolist() == [0.0]
    assert np.isnan([correlation(flat, flat), top_overlap(flat, flat), *shift(some, flat).T]).all()
