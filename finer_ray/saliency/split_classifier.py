"""What a classifier must be to be explained."""

from collections.abc import Callable
from typing import Literal, Protocol

from finer_ray.lazy import Tensor
from finer_ray.saliency.block_stack import BlockStack

# A self-attention: tokens (B, T, D), their (3D, D) and (3D,) weight and bias of q, k, v, heads; to (B, T, D).
Attention = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]

# How logits become probabilities.
Activation = Literal["softmax", "sigmoid"]


class Cut(Protocol):
    """A batch after the forward pass.

    Attributes:
        embedding: (B, E), detached.
        activation: (B, D, h, w) of the CAM layer, detached.
    """

    embedding: Tensor
    activation: Tensor

    def gradient(self, cotangent: Tensor) -> Tensor:
        """Cotangents of the embedding (B, J, E) to those of the activation (B, J, D, h, w)."""

    def mean_gradient(self, cotangent: Tensor) -> Tensor:
        """Their spatial means, (B, J, D)."""


class SplitClassifier(Protocol):
    """A classifier cut at its CAM layer: logits = head(cut(images).embedding)."""

    @property
    def class_count(self) -> int:
        """How many logits, from the first, are classes that can be predicted; further ones are concepts."""

    @property
    def activation(self) -> Activation:
        """How logits become probabilities, see `finer_ray.saliency.objective.probabilities`."""

    @property
    def side_blocks(self) -> int:
        """Along how many of the last blocks `patch_embeddings` can run; 0 where the architecture has no such stream."""

    @property
    def stack(self) -> BlockStack | None:
        """Its blocks, one by one; None where it is no ViT of plain blocks alone."""

    @property
    def compares_directions(self) -> bool:
        """Whether the classes' logits are of embeddings of unit length, as those of texts are."""

    def cut(self, images: Tensor) -> Cut:
        """One forward pass, ready for derivatives."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits alone, (B, C)."""

    def head(self, embedding: Tensor) -> Tensor:
        """Embedding (n, E) to logits (n, C), row by row."""

    def class_weights(self) -> Tensor:
        """The head's weights (C, E), for Eq. 11."""

    def differentiable(self, images: Tensor) -> Tensor:
        """Logits (B, C) with a graph down to the pixels; for Mask."""

    def patch_embeddings(self, images: Tensor, attention: Attention, blocks: int) -> Tensor:
        """Embeddings of the patches (B, h*w, E), from a side stream along the last blocks; for GEM."""
