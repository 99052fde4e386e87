"""Means, standard errors and intervals against numpy, DuckDB and the truth."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from finer_ray.metrics import statistics
from finer_ray.metrics.statistics import NORMAL_FROM, STDERR_SQL, bootstrap_interval, mean_of, mean_of_sums

VALUES = np.random.default_rng(3).random((50, 4))
VALUES[7, 1] = VALUES[:, 2] = VALUES[1:, 3] = np.nan


def test_means_leave_out_what_is_not_known() -> None:
    """Column by column, all at once, and in DuckDB; without a value there is no mean, of one no standard error."""
    every, known = mean_of(VALUES), np.isfinite(VALUES)
    sums = mean_of_sums(known.sum(0).astype(float), np.nansum(VALUES, 0), np.nansum(VALUES**2, 0))
    for place, count in enumerate((50, 49, 0, 1)):
        column, found = VALUES[known[:, place], place], mean_of(VALUES[:, place])
        assert found.count == every.count[place] == sums.count[place] == count
        mean = column.mean() if count else np.nan
        stderr = column.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
        with duckdb.connect() as connection:
            connection.register("images", pa.table({"p": column}))
            query = f"SELECT {STDERR_SQL.format('p')} FROM images"  # noqa: S608
            asked = connection.sql(query).fetchall()[0][0]
        np.testing.assert_allclose([found.mean, every.mean[place], sums.mean[place]], mean, rtol=1e-12)
        errors = [found.stderr, every.stderr[place], sums.stderr[place], np.nan if asked is None else asked]
        np.testing.assert_allclose(errors, stderr, rtol=1e-9)
        np.testing.assert_allclose(found.margin, 1.96 * stderr)


def test_equal_values_have_no_spread() -> None:
    assert mean_of(np.full(9, 0.1)).stderr == pytest.approx(0, abs=1e-16)
    assert mean_of_sums(np.array([9.0]), np.array([0.9]), np.array([9 * 0.1**2])).stderr == 0


def test_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(generator.normal(0.3, 1.0, 60), resamples=300)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert np.isnan(bootstrap_interval(np.array([1.0]))).all()
    assert bootstrap_interval(np.arange(10.0)) == bootstrap_interval(np.arange(10.0))


@pytest.mark.parametrize("drawn", [2**22, 150])
def test_interval_is_scipy_s(drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWN", drawn)
    values = np.random.default_rng(2).exponential(size=37)
    rng = np.random.default_rng(0)
    found = scipy.stats.bootstrap((values,), np.mean, n_resamples=2000, batch=2000, method="percentile", rng=rng)
    np.testing.assert_allclose(bootstrap_interval(values), found.confidence_interval, rtol=1e-12)


def test_many_images_take_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    skewed = np.random.default_rng(0).exponential(1.0, NORMAL_FROM) - 0.9
    limit = bootstrap_interval(skewed)
    monkeypatch.setattr(statistics, "NORMAL_FROM", NORMAL_FROM + 1)
    drawn = bootstrap_interval(skewed)
    assert limit != drawn
    width = drawn[1] - drawn[0]
    np.testing.assert_allclose(limit, drawn, atol=0.05 * width)
    assert bootstrap_interval(skewed, level=0.5)[0] > drawn[0]


def test_many_equal_values_have_no_width() -> None:
    assert bootstrap_interval(np.full(NORMAL_FROM, 0.25)) == (0.25, 0.25)


@pytest.mark.timeout(20)
def test_a_million_images_take_no_time() -> None:
    low, high = bootstrap_interval(np.random.default_rng(0).normal(0.1, 1.0, 1_000_000))
    assert low < 0.1 < high
    assert high - low == pytest.approx(2 * 1.96e-3, rel=0.01)
