"""Grad-CAM++ (Chattopadhay et al. 2018): positive gradients, each weighed by how much its cell alone explains.

With g = ds/dA of a cell and the sums over the cells of its channel:

    alpha = g^2 / (2 g^2 + sum(A) g^3 + EPSILON), 0 where g is 0,    w = sum of alpha ReLU(g)
    map = ReLU(sum over channels of w A)

It is not linear in the objective s; the gradient is, so that every finer map is that of its own ds/dA.
"""

from functools import partial

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.layercam import objective_gradients
from finer_ray.saliency.method import BatchContext, Cam, Method

# Of pytorch-grad-cam, not of the paper: gradients below about its root (1e-3) are weighed by their cube instead.
EPSILON = 1e-6


def gradcampp(activation: Tensor, gradients: Tensor, coefficients: Tensor) -> Tensor:
    """Grad-CAM++ before its last ReLU.

    Args:
        activation: A, (B, D, h, w).
        gradients: d y^j / dA, (B, J, D, h, w); finite.
        coefficients: a_j of the objective, (B, S, J), S objectives per image.

    Returns:
        (B, S, h, w).
    """
    sums = activation.sum((2, 3), keepdim=True)
    maps = []
    for slope in objective_gradients(gradients, coefficients):
        slope = slope.to(activation.dtype)
        square = slope.square()
        alpha = square / (2 * square + sums * square * slope + EPSILON)
        weights = (alpha * slope.relu()).sum((2, 3))
        maps.append(torch.einsum("bd,bdhw->bhw", weights, activation))
    return torch.stack(maps, dim=1)


def prepare(context: BatchContext, _settings: None) -> Cam:
    """Nothing is left to compute before the objective is known."""
    return Cam(partial(gradcampp, context.activation, context.every_gradient))


GRADCAMPP = Method(
    "gradcampp",
    "sum_channels sum_cells(alpha ReLU(ds/dA)) A",
    prepare,
    cost="gradients of every cell",
    cell_gradients=True,
)
