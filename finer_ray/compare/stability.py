"""Population stability index: how far a distribution has gone from another one, over bins.

PSI = sum over bins of (q - p) ln(q / p), with the shares p of the first sample and q of the second. By custom below 0.1
is little, above 0.25 is much. Where the two are samples of the same, it is near (1/n + 1/m) times a chi-square variable
with bins - 1 degrees of freedom (Yurdakul 2018), which is a lot for few images.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

BINS = 10
# Of the first sample in a bin, on average at the least: what the chi-square distribution asks for.
LEAST = 5
# What each bin has besides its images, in both samples, so that none is empty.
FLOOR = 0.5


@dataclass(frozen=True)
class Stability:
    """A PSI and what it is worth.

    Attributes:
        psi: 0 where both have the same shares.
        bins: how many bins it is the sum over.
        spread: 1/n + 1/m for samples of n and m, by which chance grows.
    """

    psi: float
    bins: int
    spread: float

    def chance(self, level: float) -> float:
        """What two samples of the same exceed with this probability, in (0, 1)."""
        return float(chdtri(max(self.bins - 1, 1), level)) * self.spread


def of_counts(a: NDArray[Any], b: NDArray[Any]) -> Stability:
    """The PSI of counts by bin, (bins,) each; each bin counts for `FLOOR` of an image more.

    >>> of_counts(np.array([10, 20]), np.array([10, 20])).psi
    0.0
    """
    p, q = ((counts + FLOOR) / (counts.sum() + FLOOR * len(counts)) for counts in (a, b))
    return Stability(float(((q - p) * np.log(q / p)).sum()), len(a), 1 / a.sum() + 1 / b.sum())


def of_values(a: NDArray[np.float64], b: NDArray[np.float64]) -> Stability | None:
    """The PSI of numbers, over the deciles of the first sample.

    Args:
        a, b: (n,) and (m,) numbers, a sample each; NaN does not count. For fewer than 50 values of `a` there are fewer
            bins.

    Returns:
        None where `a` has fewer than 10 values, or `b` none.
    """
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    bins = min(BINS, len(a) // LEAST)
    if bins < 2 or not len(b):
        return None
    # Values that repeat make edges that do.
    edges = np.unique(np.quantile(a, np.arange(1, bins) / bins))
    counts = [np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (a, b)]
    return of_counts(*counts)


def of_names(a: NDArray[Any], b: NDArray[Any]) -> Stability | None:
    """The PSI of names: each that `a` has `LEAST` times or more is a bin, and all others together are one.

    Args:
        a, b: (n,) and (m,) names, a sample each.

    Returns:
        None where no name is so frequent, or `b` is empty.
    """
    names, counts = np.unique(a, return_counts=True)
    others = dict(zip(*np.unique(b, return_counts=True), strict=True))
    frequent = counts >= LEAST
    if not frequent.any() or not len(b):
        return None
    found = counts[frequent], np.array([others.get(name, 0) for name in names[frequent]])
    return of_counts(*(np.append(known, len(all_) - known.sum()) for known, all_ in zip(found, (a, b), strict=True)))
