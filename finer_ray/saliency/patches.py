"""Patches: the cells of an image that show most evidence for its target, and what the model has seen there.

The evidence of a cell is the finer map without its aggregation's choices, relu(M_0 - gamma * mean_k M_k). Of the cells
that have most of it the activations A (D channels) are kept as P = A G / |A G|, where G is a Gaussian matrix (D, 64):
inner products of directions survive that up to about 1 / sqrt(64) (Johnson and Lindenstrauss 1984).
"""

from functools import lru_cache

import numpy as np

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.aggregation import contrast

# Of each patch; and of the matrix that makes them.
FEATURES, SEED = 64, 0


def top_cells(basis: Tensor, present: Tensor, gamma: float, count: int) -> Tensor:
    """The cells with the most evidence, the strongest first; of equal ones the first in reading order.

    Args:
        basis: (B, 1+K, h, w) float, the contrast basis of one target of each image.
        present: (B, K) bool, which references count.
        gamma: strength of the comparison.
        count: n, how many of each image.

    Returns:
        (B, n) int64, y * w + x; -1 where no evidence is left, or no cell.

    >>> basis = torch.tensor([[[[2.0, 1.0, 3.0]], [[1.0, 2.0, 1.0]]]])
    >>> top_cells(basis, torch.tensor([[True]]), gamma=0.5, count=4)
    tensor([[ 2,  0, -1, -1]])
    """
    evidence = contrast(basis, gamma, present=present).flatten(1)
    # NaN is no evidence; such an image fails.
    values, cells = evidence.nan_to_num(0).sort(dim=1, descending=True, stable=True)
    best = cells[:, :count].masked_fill(values[:, :count] <= 0, -1)
    return torch.nn.functional.pad(best, (0, count - best.shape[1]), value=-1)


def patch_features(activation: Tensor, cells: Tensor) -> Tensor:
    """What the model has seen in some cells, as directions of 64 numbers.

    Args:
        activation: A of the CAM layer, (B, D, h, w) float32 or float64.
        cells: (B, n) int64, see `top_cells`.

    Returns:
        (B, n, 64) of the activation's dtype and of length 1; NaN where the cell is -1.
    """
    places = cells.clamp(min=0)[:, None].expand(-1, activation.shape[1], -1)
    seen = activation.flatten(2).gather(2, places).transpose(1, 2)
    gaussian = projection(activation.shape[1], str(activation.device)).to(activation.dtype)
    projected = seen @ gaussian
    # In float64, in which no square overflows.
    length = projected.double().norm(dim=2, keepdim=True)
    directions: Tensor = (projected / length).to(activation.dtype)
    return directions.masked_fill((cells < 0)[..., None], torch.nan)


@lru_cache(maxsize=64)
def projection(channels: int, device: str = "cpu") -> Tensor:
    """The Gaussian matrix (D, 64) float32, the same on every device and in every version of NumPy, which keeps this
    generator's numbers as they are."""
    numbers = np.random.RandomState(SEED).standard_normal((channels, FEATURES)).astype(np.float32)
    return torch.from_numpy(numbers).to(device, non_blocking=True)
