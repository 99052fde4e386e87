"""Similarity of a classifier's weights: how close is a class to its nearest, second nearest, ... other class?"""

from dataclasses import dataclass

import numpy as np

from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.selection import similar_weights

CHUNK = 1024
# Up to so many classes all are compared with all, in float64. Of more, so many are drawn and compared with all.
ALL_UP_TO, DRAWN = 20_000, 1000
# Of so many classes, ranks up to the first number are kept, and as many more, evenly on a logarithmic scale.
RANKS = 1000
# Cosines that are held at a time.
MAX_COSINES = 2**25


@dataclass(frozen=True)
class SimilarityCurve:
    """Cosines between classes by rank; each (R,), rank 1 (the most similar) first.

    Attributes:
        ranks: int64, all from 1 to C - 1; of more than `ALL_UP_TO` classes some of them.
        mean, std: float64, over the classes; std is the sample standard deviation.
        low, high: float64, the smallest and the largest cosine at this rank.
        drawn: over how many classes, drawn at random, these are; None: over all.
    """

    ranks: Tensor
    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    drawn: int | None = None


def similarity_curve(weight: Tensor) -> SimilarityCurve:
    """The sorted similarity curve of a classifier (Finer-CAM, supplementary, Eq. 11 and 12, Fig. 1).

    For every class c the cosines cos(w_c, w_j) with all others are sorted, largest first; the curve is their mean over
    c at each rank. Read literally, Eq. 11 sets a class's similarity to itself to 0 and Eq. 12 sorts that 0 among the
    others; here it is left out. Rank 1 is the same (unless all cosines are negative), and so is every rank before the
    0; from there on ours is the next rank of theirs.

    Of more than `ALL_UP_TO` classes, `DRAWN` are drawn, always the same, and each is compared with all others, in
    float32. Taken in chunks of classes: memory is linear in C.

    Args:
        weight: (C, E) float, a row per class, C >= 2.

    >>> similarity_curve(torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])).low.tolist()
    [-1.0, -1.0]
    """
    count = len(weight)
    whole = count <= ALL_UP_TO
    classes, ranks = torch.arange(count), torch.arange(1, count)
    if whole:
        weight = weight.double()
    else:
        classes = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:DRAWN].sort().values
        far = torch.from_numpy(np.geomspace(RANKS, count - 1, RANKS).round().astype(np.int64))
        ranks = torch.cat([ranks[:RANKS], far]).unique()
        weight = weight.float()
    length = weight.norm(dim=1).clamp(min=1e-12)
    total = torch.zeros(len(ranks), dtype=torch.float64)
    squares, low, high = total.clone(), torch.full_like(total, torch.inf), torch.full_like(total, -torch.inf)
    for chunk in classes.split(min(CHUNK, max(1, MAX_COSINES // count))):
        cosine = functional.normalize(weight[chunk], dim=1) @ weight.T / length
        cosine[torch.arange(len(chunk)), chunk] = -torch.inf
        # NumPy sorts rows of a million eight times as fast.
        ranked = torch.from_numpy(np.sort(cosine.numpy(), axis=1)[:, count - ranks.numpy()]).double()
        total += ranked.sum(0)
        squares += ranked.square().sum(0)
        low, high = torch.minimum(low, ranked.amin(0)), torch.maximum(high, ranked.amax(0))
    mean = total / len(classes)
    variance = (squares / len(classes) - mean.square()).clamp(min=0) * len(classes) / (len(classes) - 1)
    return SimilarityCurve(ranks, mean, variance.sqrt(), low, high, None if whole else len(classes))


def most_similar(weight: Tensor) -> tuple[Tensor, Tensor]:
    """For every class the class whose classifier weights have the largest cosine with its own (Eq. 11).

    Args:
        weight: (C, E) float, C >= 2.

    Returns:
        (C,) int64, never the class itself, and (C,) their cosines.
    """
    chunks = torch.arange(len(weight)).split(min(CHUNK, max(1, MAX_COSINES // len(weight))))
    nearest = torch.cat([similar_weights(weight, chunk, 1)[:, 0] for chunk in chunks])
    return nearest, functional.cosine_similarity(weight, weight[nearest], dim=1)
