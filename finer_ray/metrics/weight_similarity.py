"""Similarity of a classifier's weights: how close is a class to its nearest, second nearest, ... other class?"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from finer_ray.saliency.selection import similar_weights

CHUNK = 1024


@dataclass(frozen=True)
class SimilarityCurve:
    """Cosines between classes by rank, over all classes; each (C - 1,) float64, rank 1 (the most similar) first.

    Attributes:
        mean, std: over the classes; std is the sample standard deviation.
        low, high: the smallest and the largest cosine at this rank.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def similarity_curve(weight: Tensor) -> SimilarityCurve:
    """The sorted similarity curve of a classifier (Finer-CAM, supplementary, Eq. 11 and 12, Fig. 1).

    For every class c the cosines cos(w_c, w_j) with all others are sorted, largest first; the curve is their mean over
    c at each rank. Taken in chunks of classes: memory is linear in C.

    Args:
        weight: (C, E) float, a row per class, C >= 2.
    """
    unit = functional.normalize(weight.double(), dim=1)
    count = len(unit)
    total = unit.new_zeros(count - 1)
    squares, low, high = total.clone(), torch.full_like(total, torch.inf), torch.full_like(total, -torch.inf)
    for first in range(0, count, CHUNK):
        cosine = unit[first : first + CHUNK] @ unit.T
        own = torch.arange(first, first + len(cosine))
        cosine[torch.arange(len(cosine)), own] = -torch.inf
        ranked = cosine.sort(dim=1, descending=True).values[:, :-1]
        total += ranked.sum(0)
        squares += ranked.square().sum(0)
        low, high = torch.minimum(low, ranked.amin(0)), torch.maximum(high, ranked.amax(0))
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) * count / (count - 1)
    return SimilarityCurve(mean, variance.sqrt(), low, high)


def most_similar(weight: Tensor) -> tuple[Tensor, Tensor]:
    """For every class the class whose classifier weights have the largest cosine with its own (Eq. 11).

    Args:
        weight: (C, E) float, C >= 2.

    Returns:
        (C,) int64, never the class itself, and (C,) their cosines.
    """
    chunks = torch.arange(len(weight)).split(CHUNK)
    nearest = torch.cat([similar_weights(weight, chunk, 1)[:, 0] for chunk in chunks])
    return nearest, functional.cosine_similarity(weight, weight[nearest], dim=1)
