"""HiRes-CAM (Draelos and Carin 2020): the gradient of every cell times what is there, without a mean over cells.

    M_j = sum over channels of d y^j / dA * A,    map = ReLU(sum_j a_j M_j)

Linear in the objective, so one map of each class serves every gamma. Where the gradient is the same in all cells, as
before global average pooling and a linear head, it is Grad-CAM.
"""

from functools import partial

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.aggregation import linear
from finer_ray.saliency.method import BatchContext, Cam, Method


def hirescam_basis(activation: Tensor, gradients: Tensor) -> Tensor:
    """The maps M_j, before ReLU.

    Args:
        activation: A, (B, D, h, w).
        gradients: d y^j / dA, (B, J, D, h, w); finite.

    Returns:
        (B, J, h, w).
    """
    return torch.einsum("bjdhw,bdhw->bjhw", gradients, activation)


def prepare(context: BatchContext, _settings: None) -> Cam:
    """One map of each class."""
    return Cam(partial(linear, hirescam_basis(context.activation, context.every_gradient)))


HIRESCAM = Method(
    "hirescam", "sum_channels ds/dA A", prepare, cost="gradients of every cell, linear in s", cell_gradients=True
)
