"""How alike two maps are, against formulas written out."""

import numpy as np
import pytest

from finer_ray.compare.agreement import correlation, shift, top_overlap


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    a, b = random.random((2, 6, 9, 12))
    # What only one of them has seen.
    a[:, :, :2], b[:, 7:] = np.nan, np.nan
    return a, b


def test_correlation_is_numpys_over_what_both_have(maps: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = maps
    both = np.isfinite(a) & np.isfinite(b)
    expected = [np.corrcoef(x[known], y[known])[0, 1] for x, y, known in zip(a, b, both, strict=True)]
    np.testing.assert_allclose(correlation(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(correlation(a, 1e-30 * b), expected, rtol=1e-12)


def test_overlap_is_that_of_sorted_points(maps: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = maps
    expected = []
    for x, y in zip(a, b, strict=True):
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        most = int(np.ceil(0.2 * len(known)))
        high = [set(known[np.argsort(values.ravel()[known])[-most:]].tolist()) for values in (x, y)]
        expected.append(len(high[0] & high[1]) / len(high[0] | high[1]))
    np.testing.assert_allclose(top_overlap(a, b, 0.2), expected)


def test_points_of_zero_are_never_high() -> None:
    a, b = np.zeros((2, 1, 10, 10))
    a[0, 0, 0], b[0, 0, 0], b[0, 9, 9] = 1, 1, 2
    assert top_overlap(a, b).tolist() == [0.5]


def test_a_map_agrees_with_itself_exactly(maps: tuple[np.ndarray, np.ndarray]) -> None:
    a, _ = maps
    np.testing.assert_array_equal(correlation(a, a), np.ones(6))
    np.testing.assert_array_equal(top_overlap(a, a), np.ones(6))
    np.testing.assert_array_equal(shift(a, a), np.zeros((6, 2)))


def test_a_centre_moves_by_its_share_of_each_side() -> None:
    a, b = np.zeros((2, 1, 8, 10))
    a[0, 2, 1], b[0, 6, 4] = 5, 0.1
    np.testing.assert_allclose(shift(a, b), [[0.3, 0.5]])


def test_what_is_flat_agrees_with_nothing_and_what_is_lacking_is_not_compared() -> None:
    some, flat, none = np.eye(4)[None], np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan)
    assert correlation(some, flat).tolist() == [0.0] == correlation(flat, some).tolist()
    assert top_overlap(some, flat).tolist() == [0.0]
    for one, other in ((flat, flat), (some, none), (none, none)):
        assert np.isnan([correlation(one, other), top_overlap(one, other), *shift(one, other).T]).all()
    assert np.isnan(shift(some, flat)).all()
