"""Grad-CAM from one forward pass: the contrast basis by vector-Jacobian products through the tail.

    alpha_j = spatial mean of d y^j / dA,    M_j = sum over channels of alpha_j * A,    map = ReLU(M_c)

Because ds/dA is linear in gamma and in the references, the 1 + K maps M_j hold every Finer-Grad-CAM map.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def contrast_basis(
    logits: Tensor,
    activation: Tensor,
    grid: Callable[[Tensor], Tensor],
    classes: Tensor,
) -> Tensor:
    """The maps M_j, before ReLU, of each image's classes.

    Args:
        logits: (B, C) float, with a graph that leads to `activation`; images must not interact in it.
        activation: the CAM layer's output, a leaf that requires grad.
        grid: turns `activation`, or its gradient, into (B, D, h, w) (drops class and register tokens).
        classes: (B, J) int64; -1 means none, and its map is NaN.

    Returns:
        (B, J, h, w) float32 (float64 for float64 activations), detached.
    """
    cells = grid(activation.detach())
    cells = cells.to(torch.promote_types(cells.dtype, torch.float32))
    maps = []
    for column in classes.T:
        # Summing over the batch gives every image its own gradient in one pass: images do not interact.
        chosen = logits.gather(1, column.clamp(min=0)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, activation, retain_graph=True)
        alpha = grid(gradient).to(cells.dtype).mean((2, 3))
        # Autocast would sum thousands of channels in half precision.
        with torch.autocast(cells.device.type, enabled=False):
            maps.append(torch.einsum("bd,bdhw->bhw", alpha, cells))
    basis = torch.stack(maps, dim=1)
    return basis.masked_fill((classes < 0)[:, :, None, None], torch.nan)
