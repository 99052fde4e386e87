"""Cuts: one batch after the forward pass through a split, and the way back from embedding to CAM layer."""

from collections.abc import Callable

import torch
from torch import Tensor

from finer_ray.saliency.objective import wide


class Cut:
    """A batch cut at the CAM layer, differentiated by autograd through the tail.

    This holds for every architecture. Where a tail is known better, `finer_ray.models.plain_block` has a faster one.

    Attributes:
        embedding: (B, E), detached.
        activation: (B, D, h, w) of the CAM layer, detached.
    """

    embedding: Tensor
    activation: Tensor

    def __init__(
        self,
        activation: Tensor,
        tail: Callable[[Tensor], Tensor],
        grid: Callable[[Tensor], Tensor],
    ) -> None:
        # A clone, because autograd cannot keep what was made under inference mode.
        self._leaf = wide(activation).clone().requires_grad_()
        self._grid = grid
        with torch.enable_grad():
            self._embedding = tail(self._leaf)
        self.embedding = self._embedding.detach()
        self.activation = grid(self._leaf.detach())

    def gradient(self, cotangent: Tensor) -> Tensor:
        """Vector-Jacobian products d<cotangent, embedding> / dA.

        Args:
            cotangent: (B, J, E), J for every image.

        Returns:
            (B, J, D, h, w).
        """
        return torch.stack([self._grid(self._product(column)) for column in cotangent.unbind(1)], dim=1)

    def mean_gradient(self, cotangent: Tensor) -> Tensor:
        """The spatial means of `gradient`, (B, J, D), float32 at least: the weights of Grad-CAM."""
        means = []
        for column in cotangent.unbind(1):
            gradient = self._grid(self._product(column))
            means.append(wide(gradient).mean((2, 3)))
        return torch.stack(means, dim=1)

    def _product(self, cotangent: Tensor) -> Tensor:
        cotangent = cotangent.to(self._embedding.dtype)
        (gradient,) = torch.autograd.grad(self._embedding, self._leaf, cotangent, retain_graph=True)
        return gradient


def pull_back(function: Callable[[Tensor], Tensor], value: Tensor, cotangent: Tensor) -> Tensor:
    """J vector-Jacobian products through a small function in one pass: each row of `value` is repeated J times,
    so that weights are read once and not J times.

    Args:
        function: (N, P) to (N, Q), row by row.
        value: (B, P).
        cotangent: (B, J, Q).

    Returns:
        (B, J, P).
    """
    batch, count = cotangent.shape[:2]
    with torch.enable_grad():
        leaf = value.detach().repeat_interleave(count, 0).requires_grad_()
        output = function(leaf)
        if output is leaf:
            return cotangent
        (gradient,) = torch.autograd.grad(output, leaf, cotangent.flatten(0, 1).to(output.dtype))
    return gradient.reshape(batch, count, -1)
