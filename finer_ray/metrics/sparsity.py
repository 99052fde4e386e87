"""Gini index of a map's cells (Hurley and Rickard 2009): 0 where all are alike, near 1 where one holds everything.

With the n cells v in rising order:

    sum_i (2 i - n - 1) v_i / (n sum_i v_i)

It is of the cells, not of the pixels that they are drawn to: the bilinear values in between would make every map less
sparse than what the method found.
"""

from finer_ray.lazy import Tensor
from finer_ray.metrics.metric import MapContext, Metric, Switch


def gini(maps: Tensor) -> Tensor:
    """Gini index of each map's cells.

    Args:
        maps: (B, M, h, w) non-negative.

    Returns:
        (B, M) in [0, 1); NaN where a map is zero everywhere.
    """
    cells = maps.flatten(2).sort(dim=2).values
    count = cells.shape[2]
    # Made on the device: numbers of the host would make a GPU be waited for.
    weights = cells.new_ones(count).cumsum(0) * 2 - (count + 1)
    # No product of matrices, which autocast would round to half precision.
    return (cells * weights).sum(2) / (count * cells.sum(2))


def _compute(context: MapContext[Tensor]) -> Tensor:
    return gini(context.maps)


SPARSITY = Metric(
    "sparsity", "sparsity of the map", Switch("sparsity", "Gini index of the map's cells"), _compute, heading="Gini"
)
