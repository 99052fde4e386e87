"""Faithfulness: do two maps of one image agree? (Finer-CAM, supplementary, A.2)"""

from finer_ray.arrays import Array, namespace
from finer_ray.lazy import Tensor, functional, torch


def cosine(a: Array, b: Array) -> Array:
    """Cosine similarity of maps as vectors of their cells.

    Args:
        a, b: (n, h, w) float, both arrays or both tensors.

    Returns:
        (n,) float64, in [0, 1] for non-negative maps, exactly 1 for the same map; NaN where a map is zero everywhere.
    """
    use = namespace(a)
    a, b = (use.asarray(maps, dtype=use.float64).reshape(len(maps), -1) for maps in (a, b))
    # The root of a product, so that nothing is rounded where both are the same.
    norm = use.sqrt((a * a).sum(1) * (b * b).sum(1))
    similarity: Array = (a * b).sum(1) / use.where(norm == 0, use.nan, norm)
    return similarity


def pearson(a: Array, b: Array) -> Array:
    """Pearson correlation of maps over their cells, which unlike the cosine is 0 for unrelated non-negative maps.

    Args:
        a, b: (n, h, w) float, both arrays or both tensors.

    Returns:
        (n,) float64 in [-1, 1], exactly 1 for the same map; NaN where a map is flat.

    >>> import numpy as np
    >>> maps = np.array([[[0.0, 1.0], [2.0, 3.0]]])
    >>> pearson(maps, 3 - maps).tolist()
    [-1.0]
    """
    use = namespace(a)
    flat = is_flat(a) | is_flat(b)
    a, b = (use.asarray(maps, dtype=use.float64) for maps in (a, b))
    correlation: Array = use.where(flat, use.nan, cosine(*(maps - maps.mean((1, 2))[:, None, None] for maps in (a, b))))
    return correlation


def is_flat(maps: Array) -> Array:
    """Which of some maps (n, h, w) have one value everywhere, (n,) bool."""
    use = namespace(maps)
    flat: Array = use.amax(maps, (1, 2)) == use.amin(maps, (1, 2))
    return flat


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of maps over their cells; cells of one value share the mean of their ranks.

    Args:
        a, b: (n, h, w) float.

    Returns:
        (n,) float64 in [-1, 1], exactly 1 for the same map; NaN where a map is flat or not finite.

    >>> float(spearman(torch.tensor([[[0.0, 1.0, 5.0]]]), torch.tensor([[[2.0, 7.0, 9.0]]])))
    1.0
    """
    return cosine(*(_centred_ranks(maps.flatten(1)) for maps in (a, b)))


def _centred_ranks(values: Tensor) -> Tensor:
    """Ranks less their mean, (n, c) float64; NaN where values are not finite."""
    ordered = values.sort(1).values
    below, upto = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    ranks = (below + upto).double() / 2 - values.shape[1] / 2
    return ranks.masked_fill(~values.isfinite().all(1, keepdim=True), torch.nan)


def to_peak(maps: Tensor) -> Tensor:
    """Maps (n, h, w), each divided by its maximum; a map of zeros stays one."""
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def resample(maps: Tensor, window: Tensor, size: tuple[int, int]) -> Tensor:
    """A window of each map on another grid, bilinearly; beyond the centres of the outer cells their values go on.

    Args:
        maps: (n, h, w) float.
        window: (n, 4) x1, y1, x2, y2 as shares of the map's width and height, in [0, 1].
        size: (H, W) of the grid.

    Returns:
        (n, H, W). With the whole map as the window and its own size, the map itself.
    """
    low, high = window[:, :2].to(maps), window[:, 2:].to(maps)
    affine = torch.zeros((len(maps), 2, 3), dtype=maps.dtype, device=maps.device)
    affine[:, [0, 1], [0, 1]] = high - low
    affine[:, :, 2] = low + high - 1
    grid = functional.affine_grid(affine, [len(maps), 1, *size], align_corners=False)
    return functional.grid_sample(maps[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
