"""Bootstrap: how sure is a mean over images, or a mean difference between two maps of the same images?"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# From here on the means of resamples are normal to within a small part of what 2000 of them can tell.
MANY = 10_000


def paired_interval(
    differences: NDArray[np.float64], level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, section 13.3).

    For `MANY` values or more its limit is taken instead: by the central limit theorem the means of resamples are
    normal, with the deviation of the values / sqrt(n). Time and memory are then those of one pass over the values.

    Args:
        differences: (n,) finite, one per image: value of one map minus value of the other; or one map's values.
        level: coverage, in (0, 1).
        resamples: how often the n images are drawn anew, with replacement.
        seed: of the draws.

    Returns:
        (low, high); NaN for fewer than two images.
    """
    count = len(differences)
    if count < 2:
        return float("nan"), float("nan")
    if count >= MANY:
        normal = NormalDist(float(differences.mean()), float(differences.std()) / count**0.5)
        edges = (1 - level) / 2, (1 + level) / 2
        low, high = (normal.inv_cdf(edge) for edge in edges) if normal.stdev else (normal.mean, normal.mean)
        return low, high
    generator = np.random.default_rng(seed)
    means = [differences[generator.integers(0, count, count)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
