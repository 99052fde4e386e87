"""Splits of open_clip's image towers: ViTs with class-token or mean pooling, ResNets with attention pooling, timm's."""

from dataclasses import replace
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.plain_block import PlainBlock, layer_scale
from finer_ray.models.split import MapSplit, Split, TokenSplit, Unsupported
from finer_ray.models.timm_split import split_timm
from finer_ray.saliency.block_stack import BlockStack, StackBlock
from finer_ray.saliency.split_classifier import Attention


class OpenClipViT(TokenSplit):
    """open_clip's VisionTransformer, cut after ln_1 of its last block."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__(visual, prefix=1, patch=tuple(visual.patch_size))

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks but the last, and the last one's ln_1."""
        tokens = self.encoder._embeds(images)
        blocks = self.encoder.transformer.resblocks
        for block in blocks[:-1]:
            tokens = block(tokens)
        return blocks[-1].ln_1(tokens), tokens

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The rest of the last block, pooling, the final norm and the projection."""
        block = self.encoder.transformer.resblocks[-1]
        tokens = residual + block.ls_1(block.attention(activation))
        return self._embed(tokens + block.ls_2(block.mlp(block.ln_2(tokens))))

    def _embed(self, tokens: Tensor) -> Tensor:
        """Pooling, the final norm and the projection."""
        pooled, _ = self.encoder._pool(tokens)
        return self._project(pooled)

    def _project(self, pooled: Tensor) -> Tensor:
        proj = self.encoder.proj
        projected: Tensor = pooled if proj is None else pooled @ proj
        return projected

    def block(self, size: tuple[int, int]) -> PlainBlock | None:
        """The last block, unless it has parts beyond the plain ones."""
        visual, block = self.encoder, self.encoder.transformer.resblocks[-1]
        attn = block.attn
        layers = (block.mlp.c_fc, block.mlp.c_proj, attn.out_proj)
        plain = (
            visual.attn_pool is None
            and visual.pool_type in ("tok", "avg")
            and attn.in_proj_weight is not None
            and attn.bias_k is None
            and not attn.add_zero_attn
            and all(isinstance(layer, nn.Linear) for layer in layers)
            and all(isinstance(norm, nn.LayerNorm) for norm in (block.ln_2, visual.ln_post))
        )
        if not plain:
            return None
        late = visual.final_ln_after_pool

        def neck(pooled: Tensor) -> Tensor:
            pooled = visual.ln_post(pooled) if late else pooled
            return self._project(pooled)

        return PlainBlock(
            heads=attn.num_heads,
            qkv_weight=attn.in_proj_weight,
            qkv_bias=attn.in_proj_bias,
            out=attn.out_proj,
            scale1=layer_scale(block.ls_1),
            norm2=block.ln_2,
            fc1=block.mlp.c_fc,
            act=block.mlp.gelu,
            fc2=block.mlp.c_proj,
            scale2=layer_scale(block.ls_2),
            norm=None if late else visual.ln_post,
            pool="token" if visual.pool_type == "tok" else "avg",
            prefix=self.prefix,
            shape=self.shape(size),
            neck=neck,
        )

    @property
    def side_blocks(self) -> int:
        """All, where they are plain and patch tokens have the embedding's projection."""
        return 0 if self.block(self.encoder.image_size) is None else len(self.encoder.transformer.resblocks)

    def side_stream(self, images: Tensor, attention: Attention, blocks: int) -> Tensor:
        """As `Split.side_stream`; the final norm and the projection are those of the class token."""
        visual, resblocks = self.encoder, self.encoder.transformer.resblocks
        first = max(0, len(resblocks) - blocks)
        tokens = visual._embeds(images)
        for block in resblocks[:first]:
            tokens = block(tokens)
        side = tokens
        for block in resblocks[first:]:
            attn = block.attn
            mixed = attention(block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias, attn.num_heads)
            side = side + block.ls_1(attn.out_proj(mixed))
            tokens = block(tokens)
        return self._project(visual.ln_post(side[:, self.prefix :]))

    @property
    def stack(self) -> BlockStack | None:
        """As `Split.stack`."""
        visual = self.encoder
        if self.block(visual.image_size) is None:
            return None
        return BlockStack(
            enter=visual._embeds,
            blocks=tuple(_stacked(block) for block in visual.transformer.resblocks),
            embed=self._embed,
            project=lambda vectors: self._project(visual.ln_post(vectors)),
            pooled=slice(0, 1) if visual.pool_type == "tok" else slice(self.prefix, None),
            prefix=self.prefix,
        )


def _stacked(block: Any) -> StackBlock:
    """A `ResidualAttentionBlock` of a stack."""

    def merge(tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = tokens + block.ls_1(block.attn.out_proj(mixed))
        merged: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return merged

    attn = block.attn
    return StackBlock(block.ln_1, attn.in_proj_weight, attn.in_proj_bias, attn.num_heads, merge)


class OpenClipResNet(MapSplit):
    """CLIP's ResNet, cut at its last feature map; attention pooling is the tail."""

    def trunk(self, images: Tensor) -> tuple[Tensor, None]:
        """Stem and the four stages."""
        visual = self.encoder
        features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        return features, None

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """Attention pooling with its projection."""
        embedding: Tensor = self.encoder.attnpool(activation)
        return embedding


class OpenClipTimm(Split):
    """A timm tower inside an open_clip model, with open_clip's projection at the end.

    Args:
        visual: the whole image tower.
        tower: its timm model, cut.
    """

    def __init__(self, visual: TimmModel, tower: Split) -> None:
        super().__init__(visual)
        # In a tuple, because the tower's parameters already stand in the module tree under `encoder`.
        self.tower = (tower,)
        self.prefix, self.channels_last, self.patch = tower.prefix, tower.channels_last, tower.patch
        self.convolutional = tower.convolutional

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tower's trunk."""
        return self.tower[0].trunk(images)

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The tower's tail and open_clip's projection."""
        return self._project(self.tower[0].tail(activation, residual))

    def encode(self, images: Tensor) -> Tensor:
        """As `Split.encode`."""
        return self._project(self.tower[0].encode(images))

    def block(self, size: tuple[int, int]) -> PlainBlock | None:
        """The tower's block, with open_clip's projection in its neck."""
        block = self.tower[0].block(size)
        if block is None:
            return None
        neck = block.neck
        return replace(block, neck=lambda pooled: self._project(neck(pooled)))

    @property
    def stack(self) -> BlockStack | None:
        """The tower's stack, with open_clip's projection at its end."""
        stack = self.tower[0].stack
        if stack is None:
            return None
        embed, project = stack.embed, stack.project
        return replace(
            stack,
            embed=lambda tokens: self._project(embed(tokens)),
            project=lambda vectors: self._project(project(vectors)),
        )

    def grid(self, activation: Tensor, size: tuple[int, int]) -> Tensor:
        """The tower's grid."""
        return self.tower[0].grid(activation, size)

    def _project(self, embedding: Tensor) -> Tensor:
        # Without a projection of open_clip's (MobileCLIP2) it is the tower's own classifier.
        for classifier in self.tower[0].classifiers:
            embedding = classifier(embedding)
        projected: Tensor = self.encoder.head(embedding)
        return projected


def split_openclip(visual: Any) -> Split:
    """Cut an open_clip image tower. Raises Unsupported."""
    if isinstance(visual, VisionTransformer):
        blocks = visual.transformer.resblocks
        if all(type(block) is ResidualAttentionBlock for block in blocks) and not visual.output_tokens:
            return OpenClipViT(visual)
        layer = f"transformer.resblocks.{len(blocks) - 1}.ln_1"
        return HookedSplit(visual, layer, prefix=1, patch=tuple(visual.patch_size))
    if isinstance(visual, ModifiedResNet):
        return OpenClipResNet(visual)
    if isinstance(visual, TimmModel):
        tower = split_timm(visual.trunk)
        if isinstance(tower, HookedSplit):
            return HookedSplit(visual, f"trunk.{tower.layer}", prefix=tower.prefix, patch=tower.patch)
        return OpenClipTimm(visual, tower)
    raise Unsupported(f"an image tower of type {type(visual).__name__}")
