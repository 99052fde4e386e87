"""From the contrast basis to one map: how gamma and the references are combined (Finer-CAM, Tab. 7)."""

from typing import Literal, get_args

import torch
from torch import Tensor

Aggregation = Literal["mean_before_relu", "max_before_relu", "mean_after_relu"]
AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def contrast(
    basis: Tensor,
    gamma: float,
    aggregation: str = "mean_before_relu",
    present: Tensor | None = None,
    reverse: bool = False,
) -> Tensor:
    """The Finer-CAM map of a contrast basis.

    With M_c = basis[:, 0] and M_k = basis[:, k] of the K references:

        mean_before_relu    ReLU(M_c - gamma * mean_k M_k)
        max_before_relu     ReLU(max_k (M_c - gamma * M_k))
        mean_after_relu     mean_k ReLU(M_c - gamma * M_k)
        reverse             the roles change places: M_k - gamma * M_c, combined over k in the same way

    Args:
        basis: (B, 1+K, h, w) float, the maps before ReLU of the target and its references.
        gamma: strength of the comparison; 0 gives the baseline CAM.
        aggregation: one of `AGGREGATIONS`.
        present: (B, K) bool, which references count; all when None. An image with none gets its baseline.
        reverse: what lights up the references rather than the target; zero where an image has no reference.

    Returns:
        (B, h, w) float, non-negative.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation {aggregation!r} is none of {', '.join(AGGREGATIONS)}")
    target, others = basis[:, :1], basis[:, 1:]
    baseline = torch.zeros_like(target[:, 0]) if reverse else target[:, 0].relu()
    if others.shape[1] == 0:
        return baseline
    if present is None:
        present = torch.ones(others.shape[:2], dtype=torch.bool, device=basis.device)
    counts = present[:, :, None, None]
    # A reference that does not count holds NaN, and 0 * NaN is NaN.
    others = others.masked_fill(~counts, 0)
    difference = others - gamma * target if reverse else target - gamma * others
    if aggregation == "max_before_relu":
        result = difference.masked_fill(~counts, -torch.inf).amax(1).relu()
    else:
        weight = counts.to(basis.dtype) / counts.sum(1, keepdim=True).clamp(min=1)
        if aggregation == "mean_before_relu":
            result = (weight * difference).sum(1).relu()
        else:
            result = (weight * difference.relu()).sum(1)
    return torch.where(counts.any(1), result, baseline)
