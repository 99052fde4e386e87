"""Splits of torchvision's classifiers: CNNs and Swin transformers at their last feature map, ViTs at a plain block."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, VisionTransformer

from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.plain_block import PlainBlock
from finer_ray.models.split import MapSplit, Split, TokenSplit, Unsupported

# The child that gives the last feature map, by class.
LAYERS: Mapping[str, str] = {
    "AlexNet": "features",
    "ConvNeXt": "features",
    "EfficientNet": "features",
    "MNASNet": "layers",
    "MaxVit": "blocks.3",
    "MobileNetV2": "features",
    "MobileNetV3": "features",
    "RegNet": "trunk_output",
    "ResNet": "layer4",
    "ShuffleNetV2": "conv5",
    "SwinTransformer": "permute",
    "VGG": "features",
}


class TorchvisionViT(TokenSplit):
    """torchvision's VisionTransformer, cut after ln_1 of its last block."""

    def __init__(self, vit: VisionTransformer, classifier: nn.Module) -> None:
        super().__init__(vit, prefix=1, patch=(vit.patch_size, vit.patch_size), classifiers=(classifier,))

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks but the last, and the last one's ln_1."""
        vit = self.encoder
        patches = vit._process_input(images)
        tokens = torch.cat([vit.class_token.expand(len(patches), -1, -1), patches], dim=1)
        tokens = vit.encoder.layers[:-1](vit.encoder.dropout(tokens + vit.encoder.pos_embedding))
        return vit.encoder.layers[-1].ln_1(tokens), tokens

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The rest of the last block, the final norm and the class token."""
        vit, block = self.encoder, self.encoder.encoder.layers[-1]
        mixed, _ = block.self_attention(activation, activation, activation, need_weights=False)
        tokens = residual + mixed
        tokens = vit.encoder.ln(tokens + block.mlp(block.ln_2(tokens)))
        embedding: Tensor = self._neck(tokens[:, 0])
        return embedding

    def block(self, size: tuple[int, int]) -> PlainBlock:
        """The last block."""
        vit, block = self.encoder, self.encoder.encoder.layers[-1]
        return PlainBlock(
            heads=block.self_attention.num_heads,
            qkv_weight=block.self_attention.in_proj_weight,
            qkv_bias=block.self_attention.in_proj_bias,
            out=block.self_attention.out_proj,
            scale1=None,
            norm2=block.ln_2,
            fc1=block.mlp[0],
            act=block.mlp[1],
            fc2=block.mlp[3],
            scale2=None,
            norm=vit.encoder.ln,
            pool="token",
            prefix=self.prefix,
            shape=self.shape(size),
            neck=self._neck,
        )

    def _neck(self, pooled: Tensor) -> Tensor:
        """What stands between the class token and the classifier, where weights have it."""
        for layer in list(self.encoder.heads)[:-1]:
            pooled = layer(pooled)
        return pooled


class TorchvisionDenseNet(MapSplit):
    """DenseNet, cut after the activation of its last feature map, which is no module."""

    def trunk(self, images: Tensor) -> tuple[Tensor, None]:
        """Features and their activation."""
        return nn.functional.relu(self.encoder.features(images)), None

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The mean over all places."""
        return activation.mean((2, 3))


def split_torchvision(model: nn.Module) -> Split:
    """Cut a classifier of torchvision's, whose last module of all is a linear layer, or an identity in place of it.

    What stands before that (the hidden layers of a VGG) belongs to the embedding.

    Raises:
        Unsupported: of another kind.
    """
    classifier = last(model)
    if not isinstance(classifier, nn.Linear | nn.Identity):
        raise Unsupported(f"a model of type {type(model).__name__} does not end in a linear classifier")
    if isinstance(model, VisionTransformer):
        return TorchvisionViT(model, classifier)
    if isinstance(model, DenseNet):
        return TorchvisionDenseNet(model, classifiers=(classifier,))
    layer = LAYERS.get(type(model).__name__)
    if layer is None:
        raise Unsupported(f"a model of type {type(model).__name__}")
    return HookedSplit(model, layer, (classifier,))


def last(model: nn.Module) -> Any:
    """The last module of all, as torchvision registers them."""
    *_, module = model.modules()
    return module
