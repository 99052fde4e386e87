"""Self-attention with rotary positions (DINOv3, EVA02): queries and keys of patch tokens are turned before they meet.

    score of query n and key t = <R_n q_n, R_t k_t>       R orthogonal, the identity for class and register tokens

So that a cotangent of a turned query or key is turned back. The rest is as in `finer_ray.models.attention`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from finer_ray.models.attention import OneQuery, PatchQueries


@dataclass(frozen=True)
class Rotation:
    """The rotary positions of N patch tokens.

    Attributes:
        turn: (B, H, N, d) to the same shape, R_n of each token.
        back: its inverse.
    """

    turn: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


class RotaryOneQuery(OneQuery):
    """As `OneQuery`, of which what reads the keys now differs from token to token.

    Args:
        tokens, weight, bias, heads, prefix: as of `OneQuery`.
        rotation: of its patch tokens.
    """

    def __init__(
        self, tokens: Tensor, weight: Tensor, bias: Tensor | None, heads: int, prefix: int, rotation: Rotation
    ) -> None:
        self._rotation = rotation
        super().__init__(tokens, weight, bias, heads, prefix)

    def _scores(self, query: Tensor, bias: Tensor | None) -> Tensor:
        tokens, (heads, size, _) = self._tokens, self._key.shape
        keys = torch.einsum("btc,hdc->bhtd", tokens, self._key)
        if bias is not None:
            keys = keys + bias.unflatten(0, (3, heads, size))[1][:, None]
        spread = query[:, :, None].expand_as(keys)
        # What each key is multiplied with before it is turned.
        self._read = torch.cat([spread[:, :, : self._prefix], self._rotation.back(spread[:, :, self._prefix :])], dim=2)
        scores: Tensor = (self._read * keys).sum(-1)
        return scores

    def mean_gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """As `OneQuery.mean_gradient`."""
        share, scores, read, value = self._patches(cotangent, images)
        keys = torch.einsum("bjhn,bhnd->bjhd", scores, read).flatten(2)
        total: Tensor = torch.einsum("bh,bjhc->bjc", share.sum(-1), value) + keys @ self._key.flatten(0, 1)
        return total / share.shape[2]

    def gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """As `OneQuery.gradient`."""
        share, scores, read, value = self._patches(cotangent, images)
        keys = (scores[..., None] * read[:, None]).transpose(2, 3).flatten(3)
        gradient: Tensor = torch.einsum("bhn,bjhc->bjnc", share, value) + keys @ self._key.flatten(0, 1)
        return gradient

    def _patches(self, cotangent: Tensor, images: slice) -> tuple[Tensor, ...]:
        """Of the patch tokens: the softmax (b, H, N), its cotangent (b, J, H, N) and what reads the keys (b, H, N, d);
        and the cotangent of what the softmax mixes (b, J, H, D)."""
        tokens, share, read, value, row = self._back(cotangent, images)
        first = self._prefix
        scores = share[:, None, :, first:] * (value @ tokens[:, None, first:].transpose(2, 3) - row[..., None])
        return share[..., first:], scores, read[:, :, first:], value


class RotaryPatchQueries(PatchQueries):
    """As `PatchQueries`; the spatial mean commutes with the projections, and no longer with the rest.

    Args:
        tokens, weight, bias, heads, prefix: as of `OneQuery`.
        rotation: of its patch tokens.
    """

    def __init__(
        self, tokens: Tensor, weight: Tensor, bias: Tensor | None, heads: int, prefix: int, rotation: Rotation
    ) -> None:
        self._rotation = rotation
        super().__init__(tokens, weight, bias, heads, prefix)

    def mean_gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """As `PatchQueries.mean_gradient`."""
        sums = [
            torch.cat([part.sum(2).flatten(1) for part in parts], dim=1)
            for parts in self._cotangents(cotangent, images)
        ]
        with torch.autocast(sums[0].device.type, enabled=False):
            mean: Tensor = torch.stack(sums, dim=1).to(self._weight.dtype) @ self._weight / cotangent.shape[2]
        return mean

    def _cotangents(self, cotangent: Tensor, images: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for q, k, v in super()._cotangents(cotangent, images):
            yield self._rotation.back(q), self._rotation.back(k), v

    def _placed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        first = self._prefix
        return self._rotation.turn(q), torch.cat([k[:, :, :first], self._rotation.turn(k[:, :, first:])], dim=2)
