"""Self-attention of a ViT's last block for the tokens that are pooled, and its derivative at the patch tokens.

    o = softmax(q k^T / sqrt(d)) v       per head; q of the pooled tokens, k and v of all T tokens

T tokens are `prefix` class and register tokens and then N patch tokens. With P the softmax and O' the cotangent of o,
the softmax's cotangent is S' = P * (O' v^T - row), row = <O', o> for every query, and each row of S' sums to zero.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional


class OneQuery:
    """The class token's attention, without keys and values.

    q k^T = (q W_k) A^T up to a constant that the softmax drops, and softmax(..) v = (softmax(..) A) W_v^T + b_v:
    H*T*D operations where the projections of all tokens to k and v take 2*T*D*D.

    Args:
        tokens: A, (B, T, D).
        weight, bias: (3D, D) and (3D,) or None, rows of q, k, v.
        heads: H.
        prefix: number of tokens before the patch tokens.

    Attributes:
        output: o, (B, 1, D).
    """

    def __init__(self, tokens: Tensor, weight: Tensor, bias: Tensor | None, heads: int, prefix: int) -> None:
        self._tokens, self._prefix = tokens, prefix
        query, self._key, self._value = weight.unflatten(0, (3, heads, -1))
        # Small next to the blocks before it, so that half precision would cost accuracy and save nothing.
        with torch.autocast(tokens.device.type, enabled=False):
            q = torch.einsum("bc,hdc->bhd", tokens[:, 0], query)
            if bias is not None:
                q = q + bias.unflatten(0, (3, heads, -1))[0]
            self._share = self._scores(q * query.shape[1] ** -0.5, bias).softmax(-1)
            self._context = self._share @ tokens
            output = torch.einsum("bhc,hdc->bhd", self._context, self._value)
            if bias is not None:
                output = output + bias.unflatten(0, (3, heads, -1))[2]
        self.output = output.flatten(1)[:, None]

    def mean_gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """Mean over the patch tokens of the cotangent of A.

        Args:
            cotangent: of o, (b, J, 1, D), for these images.

        Returns:
            (b, J, D).
        """
        tokens, share, read, value, row = self._back(cotangent, images)
        first = self._prefix
        # Rows of S' sum to zero: over the patch tokens to minus what they are over the few others.
        others = torch.einsum("bjhc,btc->bjht", value, tokens[:, :first]) - row[..., None]
        elsewhere = (share[:, None, :, :first] * others).sum(-1)
        total = torch.einsum("bh,bjhc->bjc", share[:, :, first:].sum(-1), value)
        return (total - torch.einsum("bjh,bhc->bjc", elsewhere, read)) / (tokens.shape[1] - first)

    def gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """Cotangent of A at the patch tokens, (b, J, N, D)."""
        tokens, share, read, value, row = self._back(cotangent, images)
        first = self._prefix
        share, tokens = share[:, None, :, first:], tokens[:, None, first:]
        scores = share * (value @ tokens.transpose(2, 3) - row[..., None])
        parts = torch.cat([share.expand_as(scores), scores], dim=2)
        return parts.transpose(2, 3) @ torch.cat([value, read[:, None].expand_as(value)], dim=2)

    def _scores(self, query: Tensor, _bias: Tensor | None) -> Tensor:
        """Of all tokens, (B, H, T), from the scaled query (B, H, d) and (3D,) bias or None."""
        self._read = torch.einsum("bhd,hdc->bhc", query, self._key)
        return self._read @ self._tokens.transpose(1, 2)

    def _back(self, cotangent: Tensor, images: slice) -> tuple[Tensor, ...]:
        tokens = self._tokens[images]
        by_head = cotangent[:, :, 0].to(tokens.dtype).unflatten(2, (self._value.shape[0], -1))
        value = torch.einsum("bjhd,hdc->bjhc", by_head, self._value)
        row = torch.einsum("bjhc,bhc->bjh", value, self._context[images])
        return tokens, self._share[images], self._read[images], value, row


class PatchQueries:
    """The attention of all patch tokens.

    The spatial mean commutes with the projections: the mean gradient needs the sums over patch tokens of the
    cotangents of q, k and v only. Those are P^T O' (one matmul instead of the four of a full derivative) and,
    because rows of S' sum to zero, terms of the few prefix tokens.

    Args:
        tokens, weight, bias, heads, prefix: as of `OneQuery`.

    Attributes:
        output: o, (B, N, D).
    """

    def __init__(self, tokens: Tensor, weight: Tensor, bias: Tensor | None, heads: int, prefix: int) -> None:
        self._weight, self._heads, self._prefix = weight, heads, prefix
        biases = [None] * 3 if bias is None else bias.chunk(3)
        parts = zip((tokens[:, prefix:], tokens, tokens), weight.chunk(3), biases, strict=True)
        q, k, self._v = (self._split(functional.linear(*part)) for part in parts)
        self._q, self._k = self._placed(q, k)
        self._o = functional.scaled_dot_product_attention(self._q, self._k, self._v)
        self._scale = self._q.shape[3] ** -0.5
        self.output = self._o.transpose(1, 2).flatten(2)

    def mean_gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """Mean over the patch tokens of the cotangent of A.

        Args:
            cotangent: of o, (b, J, N, D), for these images.

        Returns:
            (b, J, D).
        """
        q, k, v, o, share = self._saved(images)
        count, first = cotangent.shape[1], self._prefix
        given = cotangent.unflatten(3, (self._heads, -1)).permute(0, 3, 2, 1, 4).to(v.dtype)  # (b, H, N, J, d)
        row = (given * o[:, :, :, None]).sum(-1)
        mixed = (share.transpose(2, 3) @ torch.cat([given.flatten(3), row], dim=3)).split(
            [given[0, 0, 0].numel(), count], 3
        )
        columns = (mixed[0].unflatten(3, (count, -1)) * v[:, :, :, None]).sum(-1) - mixed[1]
        kept, prefix = share[..., first:].sum(-1), share[..., :first]
        others = given @ v[:, :, None, :first].transpose(3, 4) - row[..., None]
        elsewhere = (prefix[:, :, :, None] * others).sum(-1)
        sums = torch.stack(
            [
                torch.einsum("bhtj,bhtd->bjhd", columns, k) * self._scale,
                torch.einsum("bhnj,bhnd->bjhd", elsewhere, q) * -self._scale,
                torch.einsum("bhn,bhnjd->bjhd", kept, given),
            ],
            dim=2,
        )
        with torch.autocast(sums.device.type, enabled=False):
            weight = self._weight
            mean: Tensor = sums.flatten(2).to(weight.dtype) @ weight / q.shape[2]
        return mean

    def gradient(self, cotangent: Tensor, images: slice) -> Tensor:
        """Cotangent of A at the patch tokens, (b, J, N, D)."""
        gradients = []
        for parts in self._cotangents(cotangent, images):
            joined = torch.cat([part.transpose(1, 2).flatten(2) for part in parts], dim=2)
            gradients.append(joined @ self._weight)
        return torch.stack(gradients, dim=1)

    def _cotangents(self, cotangent: Tensor, images: slice) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each of the J, those of q, k and v at the patch tokens, (b, H, N, d)."""
        q, k, v, o, share = self._saved(images)
        first = self._prefix
        for column in cotangent.unbind(1):
            given = self._split(column).to(v.dtype)
            scores = share * (given @ v.transpose(2, 3) - (given * o).sum(-1, keepdim=True))
            turned = torch.cat([scores, share], dim=3)
            yield (
                scores @ k * self._scale,
                turned[..., first : scores.shape[3]].transpose(2, 3) @ q * self._scale,
                share[..., first:].transpose(2, 3) @ given,
            )

    def _placed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, H, N, d) and keys (B, H, T, d) as they meet; nothing is done to them here."""
        return q, k

    def _saved(self, images: slice) -> tuple[Tensor, ...]:
        q, k, v, o = (saved[images] for saved in (self._q, self._k, self._v, self._o))
        return q, k, v, o, (q @ k.transpose(2, 3) * self._scale).softmax(-1)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self._heads, -1).transpose(1, 2)
