"""Splits of timm's models: ViTs made of plain blocks, other models of tokens, and those whose features are one map."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import Attention, AttentionRope, GluMlp, Mlp, apply_rot_embed_cat
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.hiera import Hiera
from timm.models.levit import NormLinear
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from finer_ray.models.head import LinearHead
from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.plain_block import PlainBlock, layer_scale
from finer_ray.models.rotary import Rotation
from finer_ray.models.split import MapSplit, Split, TokenSplit, Unsupported
from finer_ray.saliency.block_stack import BlockStack, StackBlock

# The CAM layer of models of tokens, by class; -1 is the last of a list of blocks. Where tokens are pooled by attention
# to a class token in blocks of its own (CaiT, XCiT, VOLO), it is in those.
TOKEN_LAYERS: Mapping[str, str] = {
    "Beit": "blocks.-1.norm1",
    "Cait": "blocks_token_only.-1.norm1",
    "ConVit": "blocks.-1.norm1",
    "EfficientFormer": "stages.-1.blocks.-1.norm1",
    "Eva": "blocks.-1.norm1",
    "Hiera": "blocks.-1.norm1",
    "Levit": "stages.-1",
    "MlpMixer": "blocks.-1.norm1",
    "MultiScaleVit": "stages.-1.blocks.-1.norm1",
    "NaFlexVit": "blocks.-1.norm1",
    "PoolingVisionTransformer": "transformers.-1.blocks.-1.norm1",
    "TNT": "blocks.-1.norm_out",
    "Twins": "blocks.-1.-1.norm1",
    "VOLO": "post_network.-1.norm1",
    "VisionTransformer": "blocks.-1.norm1",
    "VisionTransformerRelPos": "blocks.-1.norm1",
    "Xcit": "cls_attn_blocks.-1.norm1",
}


class TimmViT(TokenSplit):
    """A timm VisionTransformer, cut after norm1 of its last block."""

    def __init__(self, vit: VisionTransformer) -> None:
        if not all(type(block) is Block for block in vit.blocks):
            raise Unsupported(f"a ViT with blocks of type {type(vit.blocks[-1]).__name__}")
        super().__init__(
            vit, vit.num_prefix_tokens, tuple(vit.patch_embed.feat_ratio(as_scalar=False)), classifiers(vit)
        )

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks but the last, and the last one's norm1."""
        blocks = self.encoder.blocks
        tokens = blocks[:-1](self._enter(images))
        return blocks[-1].norm1(tokens), tokens

    def _enter(self, images: Tensor) -> Tensor:
        """The tokens before the first block."""
        vit = self.encoder
        tokens: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        return tokens

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The rest of the last block, the final norm and the pooling."""
        block = self.encoder.blocks[-1]
        tokens = residual + block.drop_path1(block.ls1(block.attn(activation)))
        return self._embed(tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens)))))

    def _embed(self, tokens: Tensor) -> Tensor:
        """The final norm and the pooling."""
        embedding: Tensor = self.encoder.forward_head(self.encoder.norm(tokens), pre_logits=True)
        return embedding

    def block(self, size: tuple[int, int]) -> PlainBlock | None:
        """The last block, unless it has parts beyond the plain ones (normalised queries, gates, other MLPs)."""
        vit, block = self.encoder, self.encoder.blocks[-1]
        attn, mlp = block.attn, block.mlp
        plain = (
            _plain(attn)
            and type(mlp) is Mlp
            and isinstance(mlp.norm, nn.Identity)
            and isinstance(block.norm2, nn.LayerNorm)
            and all(isinstance(layer, nn.Linear) for layer in (mlp.fc1, mlp.fc2))
            and self._pools_plainly()
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

    def _pools_plainly(self) -> bool:
        """Whether the class token is pooled or the mean of all patch tokens, after or before a usual norm."""
        vit = self.encoder
        return (
            isinstance(vit.norm, nn.LayerNorm | nn.Identity)
            and (vit.global_pool == "token" or (vit.global_pool == "avg" and not vit.pool_include_prefix))
            and vit.attn_pool is None
        )

    @property
    def stack(self) -> BlockStack | None:
        """As `Split.stack`."""
        vit = self.encoder
        if not (self._pools_plainly() and all(_plain(block.attn) for block in vit.blocks)):
            return None
        return BlockStack(
            enter=self._enter,
            blocks=tuple(_stacked(block) for block in vit.blocks),
            embed=self._embed,
            project=lambda vectors: vit.fc_norm(vit.norm(vectors)),
            pooled=slice(0, 1) if vit.global_pool == "token" else slice(self.prefix, None),
            prefix=self.prefix,
        )


def _plain(attn: Any) -> bool:
    """Whether an attention has no parts beyond the usual ones (normalised queries, gates)."""
    if type(attn) is not Attention or not isinstance(attn.qkv, nn.Linear) or attn.gate is not None:
        return False
    return all(isinstance(extra, nn.Identity) for extra in (attn.q_norm, attn.k_norm, attn.norm))


def _stacked(block: Any) -> StackBlock:
    """A plain block of a stack."""

    def merge(tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + block.ls1(block.attn.proj(mixed))
        merged: Tensor = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        return merged

    attn = block.attn
    return StackBlock(block.norm1, attn.qkv.weight, attn.qkv.bias, attn.num_heads, merge)


class TimmEva(TokenSplit):
    """A timm Eva whose last block is plain but for rotary positions and a gated MLP: DINOv3 ViTs, the smaller EVA02."""

    def __init__(self, vit: Eva) -> None:
        super().__init__(vit, vit.num_prefix_tokens, tuple(vit.patch_embed.patch_size), classifiers(vit))

    @classmethod
    def takes(cls, vit: Eva) -> bool:
        """Whether the last block and what follows it have no parts beyond these."""
        block, attn, mlp = vit.blocks[-1], vit.blocks[-1].attn, vit.blocks[-1].mlp
        return (
            type(block) is EvaBlock
            and type(attn) in (EvaAttention, AttentionRope)
            and isinstance(attn.qkv, nn.Linear)
            and attn.gate is None
            and type(mlp) in (Mlp, GluMlp)
            and all(isinstance(layer, nn.Linear) for layer in (mlp.fc1, mlp.fc2))
            and all(isinstance(extra, nn.Identity) for extra in (attn.q_norm, attn.k_norm, attn.norm, mlp.norm))
            and isinstance(block.norm2, nn.LayerNorm)
            and isinstance(vit.norm, nn.LayerNorm | nn.Identity)
            and vit.global_pool in ("token", "avg")
            and vit.attn_pool is None
            and vit.patch_drop is None
        )

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks but the last, and the last one's norm1."""
        vit = self.encoder
        tokens, rope = vit._pos_embed(vit.patch_embed(images))
        tokens = vit.norm_pre(tokens)
        for depth, block in enumerate(vit.blocks[:-1]):
            tokens = block(tokens, rope=rope[depth] if vit.rope_mixed else rope)
        return vit.blocks[-1].norm1(tokens), tokens

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The rest of the last block and the pooling, for images of the encoder's own size."""
        vit, block = self.encoder, self.encoder.blocks[-1]
        if residual is None or residual.shape[1] != self.prefix + vit.patch_embed.num_patches:
            raise Unsupported("positions are turned by the images' size, which this tail takes to be the encoder's own")
        mixed = block.attn(activation, rope=self._rope(vit.patch_embed.grid_size))
        tokens = residual + (mixed if block.gamma_1 is None else block.gamma_1 * mixed)
        hidden = block.mlp(block.norm2(tokens))
        tokens = tokens + (hidden if block.gamma_2 is None else block.gamma_2 * hidden)
        embedding: Tensor = vit.forward_head(vit.norm(tokens), pre_logits=True)
        return embedding

    def encode(self, images: Tensor) -> Tensor:
        """As `Split.encode`, by the library's own code."""
        embedding: Tensor = self.encoder.forward_head(self.encoder.forward_features(images), pre_logits=True)
        return embedding

    def block(self, size: tuple[int, int]) -> PlainBlock:
        """The last block, with its positions."""
        vit, block = self.encoder, self.encoder.blocks[-1]
        attn, mlp = block.attn, block.mlp
        rope = self._rope(self.shape(size))
        bias = attn.qkv.bias
        if bias is None and getattr(attn, "q_bias", None) is not None:
            bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        return PlainBlock(
            heads=attn.num_heads,
            qkv_weight=attn.qkv.weight,
            qkv_bias=bias,
            out=attn.proj,
            scale1=block.gamma_1,
            norm2=block.norm2,
            fc1=mlp.fc1,
            act=partial(_gated, mlp) if isinstance(mlp, GluMlp) else mlp.act,
            fc2=mlp.fc2,
            scale2=block.gamma_2,
            norm=vit.norm if isinstance(vit.norm, nn.LayerNorm) else None,
            pool=vit.global_pool,
            prefix=self.prefix,
            shape=self.shape(size),
            neck=vit.fc_norm,
            rotation=None if rope is None else _rotation(rope, attn.rotate_half),
        )

    def _rope(self, grid: tuple[int, int]) -> Tensor | None:
        """Sines and cosines of the last block's positions, (h*w, 2d) or (H, h*w, 2d)."""
        vit = self.encoder
        if vit.rope is None:
            return None
        rope: Tensor = vit.rope.get_embed(shape=grid) if vit.dynamic_img_size else vit.rope.get_embed()
        return rope[-1] if vit.rope_mixed else rope


def _rotation(rope: Tensor, half: bool) -> Rotation:
    sin, cos = rope.chunk(2, -1)
    turn, back = (torch.cat([each, cos], dim=-1) for each in (sin, -sin))
    return Rotation(
        partial(apply_rot_embed_cat, emb=turn, half=half), partial(apply_rot_embed_cat, emb=back, half=half)
    )


def _gated(mlp: GluMlp, before: Tensor) -> Tensor:
    """What timm's GluMlp makes of the outputs of its first layer."""
    first, second = before.chunk(2, dim=-1)
    after: Tensor = first * mlp.act(second) if mlp.gate_last else mlp.act(first) * second
    return after


class TimmCNN(MapSplit):
    """Any timm model whose `forward_features` is one feature map."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, getattr(model, "output_fmt", "NCHW") == "NHWC", classifiers(model))

    def trunk(self, images: Tensor) -> tuple[Tensor, None]:
        """Everything up to the last feature map."""
        features = self.encoder.forward_features(images)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise Unsupported(f"features that are no map ({type(self.encoder).__name__})")
        return features, None

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The pooling, with what the model has between it and the classifier; once for each classifier."""
        embedding: Tensor = self.encoder.forward_head(activation, pre_logits=True)
        return embedding.repeat(1, len(self.classifiers)) if len(self.classifiers) > 1 else embedding


class TimmHiera(HookedSplit):
    """timm's Hiera, whose tokens are in reading order once its last stage has pooled them."""

    def refusal(self, layer: str) -> str | None:
        """As `Split.refusal`."""
        first, last = self.encoder.stage_ends[-2] + 1, self.encoder.stage_ends[-1]
        kind, _, rest = layer.partition(".")
        number, _, inside = rest.partition(".")
        if kind != "blocks" or int(number) > first or (int(number) == first and not inside):
            return None
        return f"the tokens of {layer!r} are not in reading order: choose among blocks.{first} to blocks.{last}"


def split_timm(model: Any) -> Split:
    """Cut a timm model. Raises Unsupported."""
    plain = isinstance(model, VisionTransformer) and not isinstance(model, VisionTransformerDistilled)
    if plain and all(type(block) is Block for block in model.blocks):
        return TimmViT(model)
    if isinstance(model, Eva) and TimmEva.takes(model):
        return TimmEva(model)
    layer = next((TOKEN_LAYERS[kind.__name__] for kind in type(model).__mro__ if kind.__name__ in TOKEN_LAYERS), None)
    if layer is None:
        return TimmCNN(model)
    kind = TimmHiera if isinstance(model, Hiera) else HookedSplit
    prefix = getattr(model, "num_prefix_tokens", 0)
    return kind(model, _named(model, layer), classifiers(model), prefix, patch=_patch(model, layer))


def _patch(model: Any, layer: str) -> tuple[int, int] | None:
    """The patch of a ViT of one row of blocks, by its line of `TOKEN_LAYERS`; None of a hierarchical one."""
    # XCiT's convolutions overlap, so that no patch is a token's own.
    if isinstance(model, Hiera) or not layer.startswith(("blocks.-1.norm", "blocks_token_only")):
        return None
    names = ("patch_embed", "embeds", "stem", "pixel_embed")
    embedding = next(getattr(model, name) for name in names if hasattr(model, name))
    size = getattr(embedding, "patch_size", None)
    return (size, size) if isinstance(size, int) else None if size is None else tuple(size)


def classifiers(model: Any) -> tuple[nn.Module, ...]:
    """The layers that map a timm model's embedding linearly to its logits; two where a second one was distilled into,
    none where there is another classifier or none."""
    found = model.get_classifier()
    heads = found if isinstance(found, tuple) else (found,)
    layers = tuple(head.linear if isinstance(head, NormLinear) else head for head in heads)
    return layers if all(_is_linear(layer) for layer in layers) else ()


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))


def native_head(model: Any) -> LinearHead | None:
    """A timm model's own classifier; of two the mean, as timm gives it. None where it has no linear one."""
    layers: tuple[Any, ...] = classifiers(model)
    if not layers:
        return None
    weight = torch.cat([layer.weight.flatten(1) for layer in layers], dim=1)
    bias = None if layers[0].bias is None else torch.stack([layer.bias for layer in layers]).mean(0)
    return LinearHead(weight / len(layers), bias)


def _named(model: nn.Module, path: str) -> str:
    """The module of a line of `TOKEN_LAYERS`.

    A block that has its norm behind its attention, or one for each of several, has none that all of its attention
    reads: there it is the output of the block before, which is that.
    """
    names: list[str] = []
    for part in path.split("."):
        here: Any = model.get_submodule(".".join(names))
        names.append(str(len(here) - 1) if part == "-1" else part)
    *where, norm = names
    block = model.get_submodule(".".join(where))
    if hasattr(block, "in_norm"):
        return ".".join([*where, "in_norm"])
    if norm == "norm1" and ("Post" in type(block).__name__ or not hasattr(block, norm)):
        return ".".join([*where[:-1], str(int(where[-1]) - 1)])
    return ".".join(names)
