"""Splits of timm's models: ViTs made of plain blocks, and CNNs whose features are one map."""

from typing import Any

from timm.layers import Attention, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from finer_ray.models.plain_block import PlainBlock, layer_scale
from finer_ray.models.split import MapSplit, Split, TokenSplit, Unsupported


class TimmViT(TokenSplit):
    """A timm VisionTransformer, cut after norm1 of its last block."""

    def __init__(self, vit: VisionTransformer) -> None:
        if not all(type(block) is Block for block in vit.blocks):
            raise Unsupported(f"a ViT with blocks of type {type(vit.blocks[-1]).__name__}")
        super().__init__(vit, vit.num_prefix_tokens, tuple(vit.patch_embed.patch_size))

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks but the last, and the last one's norm1."""
        vit = self.encoder
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        tokens = vit.blocks[:-1](tokens)
        return vit.blocks[-1].norm1(tokens), tokens

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The rest of the last block, the final norm and the pooling."""
        vit, block = self.encoder, self.encoder.blocks[-1]
        tokens = residual + block.drop_path1(block.ls1(block.attn(activation)))
        tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        embedding: Tensor = vit.forward_head(vit.norm(tokens), pre_logits=True)
        return embedding

    def block(self, size: tuple[int, int]) -> PlainBlock | None:
        """The last block, unless it has parts beyond the plain ones (normalised queries, gates, other MLPs)."""
        vit, block = self.encoder, self.encoder.blocks[-1]
        attn, mlp = block.attn, block.mlp
        extras = (attn.q_norm, attn.k_norm, attn.norm, mlp.norm) if type(attn) is Attention and type(mlp) is Mlp else ()
        plain = (
            bool(extras)
            and attn.gate is None
            and all(isinstance(extra, nn.Identity) for extra in extras)
            and isinstance(block.norm2, nn.LayerNorm)
            and isinstance(vit.norm, nn.LayerNorm | nn.Identity)
            and all(isinstance(layer, nn.Linear) for layer in (attn.qkv, mlp.fc1, mlp.fc2))
            and (vit.global_pool == "token" or (vit.global_pool == "avg" and not vit.pool_include_prefix))
            and vit.attn_pool is None
        )
        if not plain:
            return None
        return PlainBlock(
            heads=attn.num_heads,
            qkv_weight=attn.qkv.weight,
            qkv_bias=attn.qkv.bias,
            out=attn.proj,
            scale1=layer_scale(block.ls1),
            norm2=block.norm2,
            fc1=mlp.fc1,
            act=mlp.act,
            fc2=mlp.fc2,
            scale2=layer_scale(block.ls2),
            norm=vit.norm if isinstance(vit.norm, nn.LayerNorm) else None,
            pool=vit.global_pool,
            prefix=self.prefix,
            shape=self.shape(size),
            neck=vit.fc_norm,
        )


class TimmCNN(MapSplit):
    """Any timm model whose `forward_features` is one feature map."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC")

    def trunk(self, images: Tensor) -> tuple[Tensor, None]:
        """Everything up to the last feature map."""
        features = self.encoder.forward_features(images)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise Unsupported(f"features that are no map ({type(self.encoder).__name__})")
        return features, None

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The pooling, with what the model has between it and the classifier."""
        embedding: Tensor = self.encoder.forward_head(activation, pre_logits=True)
        return embedding


def split_timm(model: Any) -> Split:
    """Cut a timm model. Raises Unsupported."""
    return TimmViT(model) if isinstance(model, VisionTransformer) else TimmCNN(model)
