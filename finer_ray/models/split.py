"""Splits: image encoders cut at their CAM layer.

The CAM layer of a ViT is the output of the last block's first LayerNorm (patch tokens only), that of a CNN the
last feature map. Everything before it is the trunk, everything from it to the embedding is the tail.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from finer_ray.models.cut import Cut
from finer_ray.models.plain_block import PlainBlock, PlainCut
from finer_ray.saliency.objective import wide
from finer_ray.saliency.split_classifier import Attention


class Unsupported(ValueError):
    """The architecture cannot be cut by these splits."""


class Split(nn.Module, ABC):
    """An encoder with `tail(*trunk(images))` equal to what the encoder itself computes.

    Attributes:
        encoder: the library's own module.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    @abstractmethod
    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) images to the CAM layer's activation, and the residual stream beside it (ViTs)."""

    @abstractmethod
    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The activation to the embedding, (B, E)."""

    @abstractmethod
    def grid(self, activation: Tensor) -> Tensor:
        """The activation, or its gradient, as (B, D, h, w): patch tokens in their places."""

    def block(self) -> PlainBlock | None:
        """The tail in neutral terms where it is a plain ViT block, else None."""
        return None

    @property
    def side_blocks(self) -> int:
        """Along how many of the last blocks a side stream can run; 0 where the architecture has none."""
        return 0

    def side_stream(self, images: Tensor, attention: Attention, blocks: int) -> Tensor:
        """Patch embeddings from a second stream of tokens beside the last blocks, which takes up what `attention`
        makes of each block's normalised tokens, and nothing of its MLP (GEM).

        Args:
            images: (B, 3, H, W).
            attention: tokens (B, T, D), weight (3D, D) and bias (3D,) of q, k, v, and heads, to (B, T, D).
            blocks: how many, at most all.

        Returns:
            (B, h*w, E), in the space of the embedding.
        """
        raise Unsupported(f"{type(self.encoder).__name__} has no side stream")

    # Inference mode and autograd are not for the compiler; a compiled trunk stays compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def cut(self, images: Tensor) -> Cut:
        """One forward pass, (B, 3, H, W), ready for derivatives at the CAM layer. The trunk keeps no graph."""
        with torch.inference_mode():
            activation, residual = self.trunk(images)
        block = self.block()
        if block is not None and residual is not None:
            return PlainCut(block, activation, residual)
        beside = None if residual is None else residual.clone()
        return Cut(activation, lambda leaf: self.tail(leaf, beside), self.grid)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """The embedding alone, (B, E), with no graph at all."""
        activation, residual = self.trunk(images)
        block = self.block()
        if block is not None and residual is not None:
            return PlainCut(block, activation, residual).embedding
        return self.tail(wide(activation), residual)

    def forward(self, images: Tensor) -> Tensor:
        """What the library's own forward gives: logits where the encoder kept its classifier, else embeddings."""
        output: Tensor = self.encoder(images)
        return output


class TokenSplit(Split):
    """A ViT: activation (B, prefix + h*w, D), residual the last block's input.

    Attributes:
        prefix: tokens before the patch tokens (class, registers).
        shape: (h, w) of the patch tokens.
    """

    def __init__(self, encoder: Any, prefix: int, shape: tuple[int, int]) -> None:
        super().__init__(encoder)
        self.prefix, self.shape = prefix, shape

    def grid(self, activation: Tensor) -> Tensor:
        """Patch tokens in their places; class and register tokens are dropped."""
        tokens = activation[:, self.prefix :].transpose(1, 2)
        return tokens.reshape(*tokens.shape[:2], *self.shape)


class MapSplit(Split):
    """A CNN: activation (B, D, h, w), or (B, h, w, D) where the library keeps channels last."""

    def __init__(self, encoder: Any, channels_last: bool = False) -> None:
        super().__init__(encoder)
        self.channels_last = channels_last

    def grid(self, activation: Tensor) -> Tensor:
        """The feature map with channels first."""
        return activation.permute(0, 3, 1, 2) if self.channels_last else activation
