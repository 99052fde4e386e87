"""A ViT as the stack of blocks that it is, so that methods can look into the attention of each.

    mixed = attention(norm1(tokens)),     tokens <- merge(tokens, mixed)     (output projection, residual, MLP)

With A the attention's probabilities and V its values, mixed = A V, so that the derivative by A of whatever mixed leads
to is that by mixed, times V^T: a fused attention, which never has A, is enough.
"""

from collections.abc import Callable
from dataclasses import dataclass

from finer_ray.lazy import Tensor, functional


@dataclass(frozen=True)
class Attended:
    """What a block's self-attention makes of B images' T tokens; H heads of d channels.

    Attributes:
        query, key, value: (B, H, T, d); query as it is before it is divided by sqrt(d).
        mixed: (B, T, H d), what the output projection is given; with a graph where gradients are enabled and the tokens
            had one.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mixed: Tensor


@dataclass(frozen=True)
class StackBlock:
    """A pre-norm transformer block with plain self-attention.

    Attributes:
        norm1: (B, T, D) to the same; before the attention.
        qkv_weight, qkv_bias: (3 H d, D) and (3 H d,) or None, rows of q, k, v.
        heads: H.
        merge: tokens before the block (B, T, D) and `Attended.mixed` to the tokens behind it.
    """

    norm1: Callable[[Tensor], Tensor]
    qkv_weight: Tensor
    qkv_bias: Tensor | None
    heads: int
    merge: Callable[[Tensor, Tensor], Tensor]

    def attend(self, tokens: Tensor) -> Attended:
        """Its attention, of tokens (B, T, D)."""
        parts = functional.linear(self.norm1(tokens), self.qkv_weight, self.qkv_bias)
        query, key, value = parts.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return Attended(query, key, value, mixed)


@dataclass(frozen=True)
class BlockStack:
    """A ViT that is nothing but such blocks, one behind the other; D channels, E of the embedding.

    Attributes:
        enter: images (B, 3, H, W) to the tokens before the first block, (B, T, D).
        blocks: all of them, the first first.
        embed: tokens behind the last block to the embedding (B, E), as the model pools them.
        project: vectors (n, D) through the final norm and the projection, (n, E), without any pooling.
        pooled: which tokens `embed` takes the mean of.
        prefix: tokens before the patch tokens.
    """

    enter: Callable[[Tensor], Tensor]
    blocks: tuple[StackBlock, ...]
    embed: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    pooled: slice
    prefix: int


def by_head(mixed: Tensor, heads: int) -> Tensor:
    """(..., T, H d) as (..., H, T, d)."""
    apart: Tensor = mixed.unflatten(-1, (heads, -1)).transpose(-2, -3)
    return apart


def stack_for(method: str, stack: BlockStack | None) -> BlockStack:
    """The stack that a method needs. Raises ValueError where there is none, which a job's refusal says before."""
    if stack is None:
        raise ValueError(needs_stack(method, stack))
    return stack


def needs_stack(method: str, stack: BlockStack | None) -> str | None:
    """Why a method that looks into attention cannot explain a classifier of that stack; None where it can."""
    if stack is not None:
        return None
    return (
        f"{method} needs a ViT of plain blocks of open_clip or timm, with class-token or mean pooling and without "
        "rotary positions"
    )
