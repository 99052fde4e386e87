"""The plain last block of a ViT: its forward pass for the pooled tokens alone, and its exact derivative.

    A = norm1(R)                                        the CAM layer
    h = R + s1 * out(attention(A))
    t = h + s2 * fc2(act(fc1(norm2(h))))
    embedding = neck(mean over the pooled tokens of norm(t))

Pooled is the class token alone, or all patch tokens; what only other tokens need is never computed. The derivative of
a layer normalisation is a combination of one vector per cotangent and one per token, so that the product with fc2
is one matmul for all J cotangents together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from finer_ray.models.attention import OneQuery, PatchQueries
from finer_ray.models.cut import Cut, pull_back
from finer_ray.models.rotary import RotaryOneQuery, RotaryPatchQueries, Rotation
from finer_ray.saliency.objective import wide

# Of the MLP's hidden cotangents; images are taken in groups that stay below. On a CPU they stay near its caches.
GROUP_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}


@dataclass(frozen=True)
class PlainBlock:
    """The last block of a pre-norm ViT and what follows it, in neutral terms. D channels, F hidden ones.

    Attributes:
        heads: number of attention heads.
        qkv_weight, qkv_bias: (3D, D) and (3D,) or None, rows of q, k, v.
        out: nn.Linear(D, D) behind the attention.
        scale1, scale2: (D,) layer scale of the two branches, or None.
        norm2: the MLP's LayerNorm.
        fc1, fc2: the MLP's nn.Linear(D, F) and (F, D); of a gated one (D, 2F).
        act: from fc1's outputs to fc2's inputs, elementwise; of a gated MLP the two halves together.
        norm: the LayerNorm before pooling, or None.
        pool: `token` or `avg`.
        prefix: number of tokens before the patch tokens; the class token is the first.
        shape: (h, w) of the patch tokens.
        neck: pooled (n, D) to embedding (n, E), row by row.
        rotation: rotary positions of the patch tokens, or None.
    """

    heads: int
    qkv_weight: Tensor
    qkv_bias: Tensor | None
    out: nn.Linear
    scale1: Tensor | None
    norm2: nn.LayerNorm
    fc1: nn.Linear
    act: Callable[[Tensor], Tensor]
    fc2: nn.Linear
    scale2: Tensor | None
    norm: nn.LayerNorm | None
    pool: str
    prefix: int
    shape: tuple[int, int]
    neck: Callable[[Tensor], Tensor]
    rotation: Rotation | None = None

    def attention(self, tokens: Tensor) -> OneQuery | PatchQueries:
        """That of the pooled tokens, of A (B, T, D)."""
        given = (tokens, self.qkv_weight, self.qkv_bias, self.heads, self.prefix)
        if self.rotation is not None:
            return (RotaryOneQuery if self.pool == "token" else RotaryPatchQueries)(*given, self.rotation)
        return (OneQuery if self.pool == "token" else PatchQueries)(*given)


Method = TypeVar("Method", bound=Callable[..., Any])


def _whole_for_one(method: Method) -> Method:
    """Leave autocast out where the class token alone is pooled: next to the blocks before it that is little, so that
    half precision would cost accuracy and save nothing."""

    @wraps(method)
    def run(self: "PlainCut", *given: Any) -> Any:
        block, kind = vars(self).get("_block", given[0]), given[-1].device.type
        enabled = block.pool != "token" and torch.is_autocast_enabled(kind)
        with torch.autocast(kind, torch.get_autocast_dtype(kind), enabled):
            return method(self, *given)

    return cast(Method, run)


class PlainCut(Cut):
    """A batch after the forward pass of its last block.

    Args:
        block: its weights.
        activation: A, (B, T, D).
        residual: R, (B, T, D).
    """

    @torch.no_grad()
    @_whole_for_one
    def __init__(self, block: PlainBlock, activation: Tensor, residual: Tensor) -> None:
        tokens = wide(activation)
        self.activation = tokens[:, block.prefix :].transpose(1, 2).unflatten(2, block.shape)
        self._block = block
        self._attention = block.attention(tokens)
        residual = wide(residual[:, :1]) if block.pool == "token" else residual[:, block.prefix :]
        hidden = residual + _scaled(block.out(self._attention.output), block.scale1)
        self._normal2, self._inverse2 = _normalise(hidden, block.norm2)
        self._before = block.fc1(_affine(self._normal2, block.norm2))
        tokens = hidden + _scaled(block.fc2(block.act(self._before)), block.scale2)
        if block.norm is None:
            self._pooled = wide(tokens).mean(1)
        else:
            self._normal, self._inverse = _normalise(tokens, block.norm)
            self._pooled = _affine(self._normal.mean(1), block.norm)
        self.embedding = block.neck(self._pooled)

    @torch.no_grad()
    @_whole_for_one
    def gradient(self, cotangent: Tensor) -> Tensor:
        """As `Cut.gradient`."""
        parts = [self._attention.gradient(inner, images) for images, inner in self._groups(cotangent)]
        cells = self._shared_out(parts).transpose(2, 3)
        return cells.reshape(*cells.shape[:3], *self._block.shape)

    @torch.no_grad()
    @_whole_for_one
    def mean_gradient(self, cotangent: Tensor) -> Tensor:
        """As `Cut.mean_gradient`."""
        parts = [self._attention.mean_gradient(inner, images) for images, inner in self._groups(cotangent)]
        return self._shared_out(parts)

    def _shared_out(self, parts: list[Tensor]) -> Tensor:
        """What the mean over the pooled tokens makes of a gradient; last, where half precision cannot lose it."""
        whole: Tensor = wide(torch.cat(parts)) / self._before.shape[1]
        return whole

    def _groups(self, cotangent: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Groups of images with the cotangents of their attention's output, (b, J, N, D)."""
        pooled = wide(pull_back(self._block.neck, self._pooled, cotangent))
        hidden = self._before[0].numel() * cotangent.shape[1] * pooled.element_size()
        size = max(1, GROUP_BYTES.get(pooled.device.type, GROUP_BYTES["cpu"]) // hidden)
        for first in range(0, len(pooled), size):
            images = slice(first, first + size)
            yield images, self._back(pooled[images], images)

    def _back(self, cotangent: Tensor, images: slice) -> Tensor:
        """From cotangents of the pooled vector (b, J, D) to those of the attention's output (b, J, N, D)."""
        block = self._block
        # Every pooled token has the same cotangent; (b, J, N, ...) from here on.
        shared, tokens = cotangent, None
        if block.norm is not None:
            shared = shared if block.norm.weight is None else shared * block.norm.weight
            shared = shared - shared.mean(-1, keepdim=True)
            tokens, inverse = self._normal[images], self._inverse[images][:, None]
            along = -(shared @ tokens.transpose(1, 2))[..., None] / shared.shape[-1] * inverse
        hidden = (_scaled(shared, block.scale2) @ block.fc2.weight)[:, :, None]
        outer = shared[:, :, None]
        if tokens is not None:
            hidden = torch.addcmul(inverse * hidden, along, (_scaled(tokens, block.scale2) @ block.fc2.weight)[:, None])
            outer = torch.addcmul(inverse * outer, along, tokens[:, None])
        slope = _slope(block.act, self._before[images])[:, None]
        if slope.shape[3] > hidden.shape[3]:
            # Of a gated MLP each output has two inputs.
            hidden = torch.cat([hidden, hidden], dim=3)
        inner = (slope * hidden) @ block.fc1.weight
        inner = inner if block.norm2.weight is None else inner * block.norm2.weight
        normal = self._normal2[images][:, None]
        # Layer normalisation's derivative: what changes mean or length is taken out.
        inner = inner - inner.mean(-1, keepdim=True)
        inner = torch.addcmul(inner, normal, (inner * normal).mean(-1, keepdim=True), value=-1)
        total = torch.addcmul(outer, inner, self._inverse2[images][:, None])
        return _scaled(total, block.scale1) @ block.out.weight


def layer_scale(module: nn.Module) -> Tensor | None:
    """A library's layer scale module as a vector, (D,); None for the identity."""
    return getattr(module, "gamma", None)


def _scaled(values: Tensor, scale: Tensor | None) -> Tensor:
    return values if scale is None else values * scale


def _normalise(values: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Values to mean 0 and variance 1 over the channels, and by what they were multiplied, (..., 1)."""
    normal, _, inverse = torch.native_layer_norm(wide(values), norm.normalized_shape, None, None, norm.eps)
    return normal, inverse


def _affine(values: Tensor, norm: nn.LayerNorm) -> Tensor:
    values = values if norm.weight is None else values * norm.weight
    return values if norm.bias is None else values + norm.bias


def _slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The derivative of an elementwise function."""
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return slope
