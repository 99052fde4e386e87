"""Layer-CAM (Jiang et al. 2021): the gradient of every cell, not of the mean.

map = ReLU(sum over channels of ReLU(ds/dA) * A),    ds/dA = sum_j a_j d y^j / dA
"""

from functools import partial

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.method import BatchContext, Cam, Method


def layercam(activation: Tensor, gradients: Tensor, coefficients: Tensor) -> Tensor:
    """Layer-CAM before its last ReLU.

    Args:
        activation: A, (B, D, h, w).
        gradients: d y^j / dA, (B, J, D, h, w); finite.
        coefficients: a_j of the objective, (B, S, J), S objectives per image.

    Returns:
        (B, S, h, w).
    """
    coefficients = coefficients.to(gradients.dtype)
    maps = []
    for objective in coefficients.unbind(1):
        slope = torch.einsum("bj,bjdhw->bdhw", objective, gradients).relu_()
        maps.append(torch.einsum("bdhw,bdhw->bhw", slope.to(activation.dtype), activation))
    return torch.stack(maps, dim=1)


def prepare(context: BatchContext, _settings: None) -> Cam:
    """Nothing is left to compute before the objective is known."""
    if context.gradients is None:
        raise ValueError("Layer-CAM needs the gradients of every cell")
    return Cam(partial(layercam, context.activation, context.gradients))


LAYERCAM = Method(
    "layercam", "sum_channels ReLU(ds/dA) A", prepare, cost="gradients of every cell", cell_gradients=True
)
