"""Layer-CAM (Jiang et al. 2021): the gradient of every cell, not of the mean.

map = ReLU(sum over channels of ReLU(ds/dA) * A),    ds/dA = sum_j a_j d y^j / dA
"""

from collections.abc import Iterator
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
    slopes = (slope.relu_().to(activation.dtype) for slope in objective_gradients(gradients, coefficients))
    return torch.stack([torch.einsum("bdhw,bdhw->bhw", slope, activation) for slope in slopes], dim=1)


def objective_gradients(gradients: Tensor, coefficients: Tensor) -> Iterator[Tensor]:
    """ds/dA of each objective, one after the other because each is as large as the activation.

    Args:
        gradients: d y^j / dA, (B, J, D, h, w); finite.
        coefficients: a_j of the objectives, (B, S, J).

    Yields:
        (B, D, h, w), S times.
    """
    for objective in coefficients.to(gradients.dtype).unbind(1):
        yield torch.einsum("bj,bjdhw->bdhw", objective, gradients)


def prepare(context: BatchContext, _settings: None) -> Cam:
    """Nothing is left to compute before the objective is known."""
    return Cam(partial(layercam, context.activation, context.every_gradient))


LAYERCAM = Method(
    "layercam", "sum_channels ReLU(ds/dA) A", prepare, cost="gradients of every cell", cell_gradients=True
)
