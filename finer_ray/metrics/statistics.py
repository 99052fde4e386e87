"""Means of metrics over images, and how sure they are: standard errors, 95 % margins, bootstrap intervals."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

# Standard errors to either side of a mean that hold 95 % of a normal distribution.
Z = 1.96
# The standard error of a column in DuckDB, `{0}`; null for fewer than two values.
STDERR_SQL = "(stddev_samp({0}) / sqrt(count({0})))"
# From here on the means of resamples are normal to within a small part of what 2000 of them can tell.
NORMAL_FROM = 10_000
# Values that are drawn together, of all resamples.
DRAWN = 2**22


@dataclass(frozen=True)
class Mean:
    """A mean over images, or one for each column.

    Attributes:
        count: of values.
        mean: NaN where there is none.
        stderr: sample standard deviation / sqrt(count); NaN for fewer than two.
    """

    count: Any
    mean: Any
    stderr: Any

    @property
    def margin(self) -> Any:
        """Half the width of the 95 % interval by the normal distribution."""
        return Z * self.stderr


def mean_of(values: Values) -> Mean:
    """The mean of the values that are finite.

    Args:
        values: (n,), or (n, G), which are averaged over n; NaN where an image has none.

    >>> float(mean_of(np.array([1.0, 2.0, 3.0, np.nan])).mean)
    2.0
    """
    known = np.ma.masked_invalid(values)
    count = known.count(0)
    mean, deviation = (np.ma.filled(found, np.nan)[()] for found in (known.mean(0), known.std(0, ddof=1)))
    return Mean(count, mean, deviation / np.sqrt(count))


def mean_of_sums(count: Values, total: Values, squares: Values) -> Mean:
    """Means of values of which only the sums are known.

    Args:
        count: of values, (n,).
        total: their sums, (n,); anything where there is no value.
        squares: sums of their squares, (n,), likewise.
    """
    some, several = np.where(count >= 1, count, np.nan), np.where(count >= 2, count, np.nan)
    mean = total / some
    spread = squares - several * (mean * mean)
    # What rounding leaves of values that are all the same.
    spread = np.where(spread > squares * 1e-12, spread, several * 0.0)
    return Mean(count, mean, np.sqrt(spread / (several * (several - 1.0))))


def bootstrap_interval(
    values: Values, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, section 13.3).

    For `NORMAL_FROM` values or more its limit is taken instead: by the central limit theorem the means of resamples are
    normal, with the deviation of the values / sqrt(n). Time and memory are then those of one pass over the values.

    Args:
        values: (n,) finite, one per image; for a paired difference the value of one map minus that of the other.
        level: coverage, in (0, 1).
        resamples: how often the n images are drawn anew, with replacement.
        seed: of the draws.

    Returns:
        (low, high); NaN for fewer than two images.
    """
    count = len(values)
    if count < 2:
        return float("nan"), float("nan")
    if count >= NORMAL_FROM:
        normal = NormalDist(float(values.mean()), float(values.std()) / count**0.5)
        edges = (1 - level) / 2, (1 + level) / 2
        low, high = (normal.inv_cdf(edge) for edge in edges) if normal.stdev else (normal.mean, normal.mean)
        return low, high
    # In NumPy, because scipy.stats, whose `bootstrap` gives the same, takes as long to import as all the rest.
    generator, batch = np.random.default_rng(seed), max(1, DRAWN // count)
    sizes = ((min(batch, resamples - done), count) for done in range(0, resamples, batch))
    means = np.concatenate([values[generator.integers(count, size=size)].mean(1) for size in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def or_null(value: float | None) -> float | None:
    """None in place of NaN, as tables have it."""
    return None if value is None or value != value else value
