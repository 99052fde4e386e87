"""Paired bootstrap: how sure is a mean difference between two maps of the same images?"""

import numpy as np
from numpy.typing import NDArray


def paired_interval(
    differences: NDArray[np.float64], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, section 13.3).

    Args:
        differences: (n,) finite, one per image: value of one map minus value of the other.
        level: coverage, in (0, 1).
        resamples: how often the n images are drawn anew, with replacement.
        seed: of the draws.

    Returns:
        (low, high); NaN for fewer than two images.
    """
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = [differences[generator.integers(0, count, count)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
