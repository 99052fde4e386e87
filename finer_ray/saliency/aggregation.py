"""How gamma and the references become one map (Finer-CAM, Tab. 7), for every CAM alike.

A CAM is a function `raw` from the objective's coefficients, s = sum_j a_j y^j over the target (j = 0) and its
references (j = 1..K), to a map before its last ReLU. With weights w_k of the references (sum 1; equal: 1/K):

    mean_before_relu    ReLU(raw(y^c - gamma * sum_k w_k y^{d_k}))
    max_before_relu     ReLU(max_k raw(y^c - gamma * y^{d_k}))
    mean_after_relu     sum_k w_k ReLU(raw(y^c - gamma * y^{d_k}))
    reverse             the roles change places: sum_k w_k y^{d_k} - gamma * y^c, and so on
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import numpy as np

from finer_ray.arrays import Array, namespace
from finer_ray.saliency.objective import reference_weights

Aggregation = Literal["mean_before_relu", "max_before_relu", "mean_after_relu"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def contrast(
    basis: Array,
    gamma: float,
    aggregation: str = "mean_before_relu",
    present: Array | None = None,
    reverse: bool = False,
    weights: Array | None = None,
) -> Array:
    """The Finer-Grad-CAM map of a contrast basis; Grad-CAM's `raw` is linear: sum_j a_j M_j.

    Args:
        basis: (B, 1+K, h, w) float, the maps M_j before ReLU of the target and its references; an array or a tensor on
            any device.
        gamma: strength of the comparison; 0 gives the baseline CAM, more than 1 extrapolates.
        aggregation: one of `AGGREGATIONS`.
        present: (B, K) bool, which references count; all when None. An image with none gets its baseline.
        reverse: what lights up the references rather than the target; zero where an image has no reference.
        weights: (B, K) of the references, see `finer_ray.saliency.reference_weights`; equal when None.

    Returns:
        (B, h, w) of the basis's kind and dtype, non-negative.

    >>> basis = np.array([[[[2.0, 1.0]], [[1.0, 2.0]]]])
    >>> contrast(basis, gamma=0.5)
    array([[[1.5, 0. ]]])
    """
    xp = namespace(basis)
    there = xp.ones_like(basis[:, :, 0, 0], dtype=xp.bool)
    if present is None:
        present = there[:, 1:]
    if weights is None:
        weights = reference_weights(xp.zeros_like(basis[:, 1:, 0, 0]), present, "equal")
    known = xp.concat([there[:, :1], present], 1)
    # A reference that does not count holds NaN, and 0 * NaN is NaN.
    finite: Array = xp.where(known[:, :, None, None], basis, 0.0)
    return combine(partial(linear, finite), weights, present, gamma, aggregation, reverse)


def linear(basis: Array, coefficients: Array) -> Array:
    """`raw` of a CAM that is linear in the objective: sum_j a_j M_j.

    Args:
        basis: (B, J, h, w), finite.
        coefficients: a_j, (B, S, J).

    Returns:
        (B, S, h, w).
    """
    images, terms, height, width = basis.shape
    cells = basis.reshape(images, terms, height * width)
    maps = namespace(basis).asarray(coefficients, dtype=basis.dtype) @ cells
    drawn: Array = maps.reshape(images, maps.shape[1], height, width)
    return drawn


def combine(
    raw: Callable[[Array], Array],
    weights: Array,
    present: Array,
    gamma: float,
    aggregation: str,
    reverse: bool = False,
) -> Array:
    """One map of a CAM.

    Args:
        raw: coefficients (B, S, 1+K) to maps before ReLU, (B, S, h, w).
        weights: (B, K) of the references, zero where they do not count; (B, D, K) where they differ by channel
            (Score-CAM), and then `raw` is given coefficients (B, 1, D, 1+K).
        present: (B, K) bool, which references count. An image with none gets its baseline.
        gamma, aggregation, reverse: see `contrast`.

    Returns:
        (B, h, w), non-negative.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation {aggregation!r} is none of {', '.join(AGGREGATIONS)}")
    xp, like = namespace(weights), {"dtype": weights.dtype, "device": weights.device}
    batch, count = present.shape
    target, reference = (-gamma, 1.0) if reverse else (1.0, -gamma)
    some: Array = xp.any(present, 1)[:, None]
    if count == 0 or (gamma == 0 and not reverse):
        alone = xp.zeros((batch, 1, 1 + count), **like)
        alone[..., 0] = 1.0
        baseline: Array = raw(alone)[:, 0].clip(min=0)
        return xp.zeros_like(baseline) if reverse else baseline
    result: Array
    if aggregation == "mean_before_relu":
        first = xp.full_like(weights[..., :1], target)
        result = raw(xp.concat([first, reference * weights], -1)[:, None])[:, 0].clip(min=0)
    else:
        # The pair of a reference that does not count is the target alone; it counts where an image has no other.
        one = xp.eye(count, **like) * present[:, None]
        pairs = raw(xp.concat([xp.full_like(one[..., :1], target), reference * one], -1))
        if aggregation == "max_before_relu":
            counted = (present | ~some)[:, :, None, None]
            result = xp.amax(xp.where(counted, pairs, -np.inf), 1).clip(min=0)
        else:
            share = weights if weights.ndim == 2 else weights.mean(1)
            share = xp.where(some, share, 1 / count)
            result = (share[:, :, None, None] * pairs.clip(min=0)).sum(1)
    # Reversed, an image without references has nothing to show; otherwise it has its baseline by now.
    return xp.where(some[..., None], result, 0.0) if reverse else result
