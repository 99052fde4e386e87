"""XGrad-CAM (Fu et al. 2020): gradients averaged over the cells by what share of a channel's activation they hold.

    w_j = sum over cells of d y^j / dA * A / (sum over cells of A + EPSILON),    M_j = sum over channels of w_j A

map = ReLU(sum_j a_j M_j): linear in the objective, so one map of each class serves every gamma.
"""

from functools import partial

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.aggregation import linear
from finer_ray.saliency.gradcam import contrast_basis
from finer_ray.saliency.method import BatchContext, Cam, Method

# Of pytorch-grad-cam; the paper says nothing of channels that are zero everywhere.
EPSILON = 1e-7


def xgradcam_weights(activation: Tensor, gradients: Tensor) -> Tensor:
    """The channels' weights w_j.

    Args:
        activation: A, (B, D, h, w).
        gradients: d y^j / dA, (B, J, D, h, w); finite.

    Returns:
        (B, J, D).
    """
    shares = activation / (activation.sum((2, 3), keepdim=True) + EPSILON)
    return torch.einsum("bjdhw,bdhw->bjd", gradients, shares)


def prepare(context: BatchContext, _settings: None) -> Cam:
    """One map of each class."""
    weights = xgradcam_weights(context.activation, context.every_gradient)
    return Cam(partial(linear, contrast_basis(context.activation, weights)))


XGRADCAM = Method(
    "xgradcam",
    "sum_channels sum_cells(ds/dA A / sum_cells(A)) A",
    prepare,
    cost="gradients of every cell, linear in s",
    cell_gradients=True,
)
