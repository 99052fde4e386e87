"""Splits: image encoders cut at their CAM layer.

The CAM layer of a ViT is the output of the last block's first LayerNorm (patch tokens only), that of a CNN the
last feature map. Everything before it is the trunk, everything from it to the embedding is the tail.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finer_ray.models.cut import Cut
from finer_ray.models.plain_block import PlainBlock, PlainCut
from finer_ray.saliency.block_stack import BlockStack
from finer_ray.saliency.objective import wide
from finer_ray.saliency.split_classifier import Attention


class Unsupported(ValueError):
    """The architecture cannot be cut by these splits."""


class Split(nn.Module, ABC):
    """An encoder with `tail(*trunk(images))` equal to what the encoder itself computes.

    Args:
        encoder: the library's own module.
        classifiers: those of its modules that make logits of the embedding in its own forward; none where it kept no
            classifier.

    Attributes:
        compilable: whether `cut` runs `trunk`, which may then be compiled.
        prefix: tokens before the patch tokens that the encoder's layers usually have (class, registers).
        channels_last: whether its maps are (B, h, w, D).
        patch: (height, width) in pixels of a ViT's patches, each of which stays one token through all layers; None
            where there are none, and of hierarchical ones.
        convolutional: whether GPUs should keep its weights and images with channels last.
    """

    compilable = True
    convolutional = False
    prefix = 0
    channels_last = False
    patch: tuple[int, int] | None = None

    def __init__(self, encoder: Any, classifiers: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        # In a tuple, because they already stand in the module tree under `encoder`.
        self.classifiers = tuple(classifiers)

    @abstractmethod
    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) images to the CAM layer's activation, and the residual stream beside it (ViTs)."""

    @abstractmethod
    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The activation to the embedding, (B, E)."""

    @abstractmethod
    def grid(self, activation: Tensor, size: tuple[int, int]) -> Tensor:
        """The activation, or its gradient, as (B, D, h, w): patch tokens in their places.

        Args:
            activation: as `trunk` gives it.
            size: (H, W) of the images it was made of.
        """

    def block(self, size: tuple[int, int]) -> PlainBlock | None:
        """The tail in neutral terms where it is a plain ViT block, else None.

        Args:
            size: (H, W) of the images.
        """
        return None

    def refusal(self, layer: str) -> str | None:
        """Why a module of this encoder is no CAM layer, whatever the shape of its output; None where nothing is known.

        Args:
            layer: the module's name.
        """
        return None

    @property
    def multiple(self) -> tuple[int, int]:
        """(height, width) in pixels of which images of the photo's own aspect have multiples (`model.resize: native`):
        the patch; any size would do for most CNNs, and few sizes make large batches."""
        return self.patch or (32, 32)

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

    @property
    def stack(self) -> BlockStack | None:
        """The encoder block by block where it is a ViT of plain blocks alone, pooled by its class token or a mean."""
        return None

    # Inference mode and autograd are not for the compiler; a compiled trunk stays compiled.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def cut(self, images: Tensor) -> Cut:
        """One forward pass, (B, 3, H, W), ready for derivatives at the CAM layer. The trunk keeps no graph."""
        with torch.inference_mode():
            activation, residual = self.trunk(images)
        size = (images.shape[2], images.shape[3])
        block = self.block(size)
        if block is not None and residual is not None:
            return PlainCut(block, activation, residual)
        # Clones, because autograd cannot keep what was made under inference mode.
        leaf = wide(activation).clone().requires_grad_()
        beside = None if residual is None else residual.clone()
        with torch.enable_grad():
            embedding = self.tail(leaf, beside)
        return Cut(leaf, embedding, partial(self.grid, size=size))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """The embedding alone, (B, E), with no graph at all."""
        activation, residual = self.trunk(images)
        block = self.block((images.shape[2], images.shape[3]))
        if block is not None and residual is not None:
            return PlainCut(block, activation, residual).embedding
        return self.tail(wide(activation), residual)

    def encode(self, images: Tensor) -> Tensor:
        """The embedding, (B, E), with a graph down to the images where gradients are enabled."""
        return self.tail(*self.trunk(images))

    def forward(self, images: Tensor) -> Tensor:
        """What the library's own forward gives: logits where the encoder kept its classifier, else embeddings."""
        output = self.encoder(images)
        # Of more than one (CoCa's tokens beside the embedding) the first.
        embedding: Tensor = output[0] if isinstance(output, tuple) else output
        return embedding


class TokenSplit(Split):
    """A ViT: activation (B, prefix + h*w, D), residual the last block's input.

    Attributes:
        prefix: tokens before the patch tokens (class, registers).
        patch: (height, width) of a patch, pixels.
    """

    def __init__(
        self, encoder: Any, prefix: int, patch: tuple[int, int], classifiers: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__(encoder, classifiers)
        self.prefix = prefix
        self.patch: tuple[int, int] = patch

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the patch tokens of images of (H, W) pixels."""
        return size[0] // self.patch[0], size[1] // self.patch[1]

    def grid(self, activation: Tensor, size: tuple[int, int]) -> Tensor:
        """Patch tokens in their places; class and register tokens are dropped."""
        patches: Tensor = activation[:, self.prefix :].transpose(1, 2).unflatten(2, self.shape(size))
        return patches


class MapSplit(Split):
    """A CNN: activation (B, D, h, w), or (B, h, w, D) where the library keeps channels last."""

    convolutional = True

    def __init__(self, encoder: Any, channels_last: bool = False, classifiers: Sequence[nn.Module] = ()) -> None:
        super().__init__(encoder, classifiers)
        self.channels_last = channels_last

    def grid(self, activation: Tensor, size: tuple[int, int]) -> Tensor:
        """The feature map with channels first."""
        return activation.permute(0, 3, 1, 2) if self.channels_last else activation
