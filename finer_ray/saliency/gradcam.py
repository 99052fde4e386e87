"""Grad-CAM (Selvaraju et al. 2017) as a contrast basis.

    alpha_j = spatial mean of d y^j / dA,    M_j = sum over channels of alpha_j * A,    map = ReLU(sum_j a_j M_j)

Because ds/dA is linear in gamma and in the references, the 1 + K maps M_j hold every Finer-Grad-CAM map.
"""

from functools import partial

from finer_ray.lazy import Tensor
from finer_ray.saliency.aggregation import linear
from finer_ray.saliency.method import BatchContext, Cam, Method


def contrast_basis(activation: Tensor, alpha: Tensor) -> Tensor:
    """The maps M_j, before ReLU.

    Args:
        activation: A, (B, D, h, w) float32 or float64.
        alpha: (B, J, D), spatial means of the gradients.

    Returns:
        (B, J, h, w).
    """
    cells = alpha.to(activation.dtype) @ activation.flatten(2)
    return cells.reshape(*cells.shape[:2], *activation.shape[2:])


def prepare(context: BatchContext, _settings: None) -> Cam:
    """The basis is at hand: every export may store it."""
    return Cam(partial(linear, context.basis))


GRADCAM = Method("gradcam", "sum_channels mean_cells(ds/dA) A", prepare, cost="linear in s")
