"""open_clip backbones: ViTs with class-token or mean pooling, ResNets with attention pooling, timm towers."""

import logging
import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import open_clip
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from finer_ray.config import LOCAL_DIR, ModelConfig, nearest
from finer_ray.errors import ConfigError
from finer_ray.models.backbone import Backbone
from finer_ray.models.checkpoint import check_numbers, load_into, read_checkpoint, weights_file
from finer_ray.models.head import LinearHead
from finer_ray.models.openclip_folder import OpenClipFolder
from finer_ray.models.plain_block import PlainBlock, layer_scale
from finer_ray.models.split import Attention, MapSplit, Split, TokenSplit, Unsupported
from finer_ray.models.timm_backbone import split_timm
from finer_ray.shards import Transform

POOL_TYPES = {"token": "tok", "avg": "avg"}


class OpenClipViT(TokenSplit):
    """open_clip's VisionTransformer, cut after ln_1 of its last block."""

    def __init__(self, visual: VisionTransformer) -> None:
        blocks = visual.transformer.resblocks
        if not all(type(block) is ResidualAttentionBlock for block in blocks) or visual.output_tokens:
            raise Unsupported(f"a ViT with blocks of type {type(blocks[-1]).__name__}")
        super().__init__(visual, prefix=1, shape=tuple(visual.grid_size))

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks but the last, and the last one's ln_1."""
        tokens = self.encoder._embeds(images)
        blocks = self.encoder.transformer.resblocks
        for block in blocks[:-1]:
            tokens = block(tokens)
        return blocks[-1].ln_1(tokens), tokens

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The rest of the last block, pooling, the final norm and the projection."""
        visual, block = self.encoder, self.encoder.transformer.resblocks[-1]
        tokens = residual + block.ls_1(block.attention(activation))
        tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        pooled, _ = visual._pool(tokens)
        embedding: Tensor = pooled if visual.proj is None else pooled @ visual.proj
        return embedding

    def block(self) -> PlainBlock | None:
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
            return pooled if visual.proj is None else pooled @ visual.proj

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
            shape=self.shape,
            neck=neck,
        )

    @property
    def side_blocks(self) -> int:
        """All, where they are plain and patch tokens have the embedding's projection."""
        return 0 if self.block() is None else len(self.encoder.transformer.resblocks)

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
        patches: Tensor = visual.ln_post(side[:, self.prefix :])
        return patches if visual.proj is None else patches @ visual.proj


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
    """A timm tower inside an open_clip model, with open_clip's projection at the end."""

    def __init__(self, visual: TimmModel) -> None:
        super().__init__(visual)
        # In a tuple, because the tower's parameters already stand in the module tree under `encoder`.
        self.tower = (split_timm(visual.trunk),)

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The tower's trunk."""
        return self.tower[0].trunk(images)

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The tower's tail and open_clip's projection."""
        embedding: Tensor = self.encoder.head(self.tower[0].tail(activation, residual))
        return embedding

    def block(self) -> PlainBlock | None:
        """The tower's block, with open_clip's projection in its neck."""
        block = self.tower[0].block()
        if block is None:
            return None
        neck = block.neck
        return replace(block, neck=lambda pooled: self.encoder.head(neck(pooled)))

    def grid(self, activation: Tensor) -> Tensor:
        """The tower's grid."""
        return self.tower[0].grid(activation)


def split_openclip(visual: Any) -> Split:
    """Cut an open_clip image tower. Raises Unsupported."""
    if isinstance(visual, VisionTransformer):
        return OpenClipViT(visual)
    if isinstance(visual, ModifiedResNet):
        return OpenClipResNet(visual)
    if isinstance(visual, TimmModel):
        return OpenClipTimm(visual)
    raise Unsupported(f"an image tower of type {type(visual).__name__}")


def build(config: ModelConfig, names: tuple[str, ...], concepts: tuple[str, ...]) -> Backbone:
    """An open_clip backbone from `model.*` of the config, with the heads that its text tower makes.

    Args:
        names: of the classes, for `head: text`.
        concepts: texts beside them.

    Raises:
        ConfigError: unknown name or tag, weights that do not fit, or an option that the model lacks.
    """
    name, folder = config.backbone.removeprefix("open_clip:"), None
    if name.startswith(LOCAL_DIR):
        folder = OpenClipFolder.read(name.removeprefix(LOCAL_DIR))
        name = folder.name
    elif name not in open_clip.list_models():
        hint = nearest(name, open_clip.list_models())
        raise ConfigError(f"model.backbone: open_clip has no model {name!r}{hint}")
    if config.head == "native":
        raise ConfigError(
            "model.head: open_clip backbones have no native classifier; use text (with model.classes) "
            "or the path of a safetensors file"
        )
    model = _create(name, config)
    texts = {"head": names if config.head == "text" else (), "concepts": concepts}
    tokenizer = folder.tokenizer if folder else partial(open_clip.get_tokenizer, name)
    heads = {
        part: text_head(model, tokenizer(), prompts, config.templates) for part, prompts in texts.items() if prompts
    }
    if config.pool is not None:
        _set_pool(model.visual, config.pool)
    identity = folder.identity if folder else ""
    return Backbone(split_openclip(model.visual), _transform(model, config), **heads, identity=identity)


def text_head(model: Any, tokenizer: Any, names: tuple[str, ...], templates: list[str]) -> LinearHead:
    """The zero-shot head (CLIP, section 3.1.4): per class the mean of its prompts' normalised embeddings,
    normalised; logits are scale * cosine + bias with the model's own scale and bias."""
    weights = open_clip.build_zero_shot_classifier(
        model, tokenizer, classnames=names, templates=[template.format for template in templates]
    ).T
    bias = getattr(model, "logit_bias", None)
    biases = None if bias is None else bias.detach().expand(len(weights))
    return LinearHead(weights, biases, scale=model.logit_scale.exp().item(), normalize=True)


def _create(name: str, config: ModelConfig) -> Any:
    path = weights_file(config.weights)
    tag = None if path is not None or config.weights == "random" else config.weights
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag is not None and tag not in tags:
        raise ConfigError(
            f"model.weights: {tag!r} is neither a file nor a pretrained tag of open_clip:{name}"
            f"{nearest(tag, tags)}; its tags: {', '.join(tags) or 'none'}; or: random"
        )
    # open_clip warns of random weights even where a checkpoint follows.
    logging.getLogger().addFilter(_no_pretrained)
    try:
        model = open_clip.create_model(
            name,
            pretrained=tag,
            # A local-dir folder may hold any checkpoint; what is loaded is what model.weights names.
            load_weights=not name.startswith(LOCAL_DIR),
            force_image_size=config.image_size,
            weights_only=True,
            pretrained_text=False,
        )
    except Exception as error:
        raise ConfigError(
            f"model.weights: open_clip:{name} with {tag or 'no weights'} cannot be made ({error}); "
            "where the network is missing, download the weights elsewhere and give the file's path"
        ) from error
    finally:
        logging.getLogger().removeFilter(_no_pretrained)
    if path is not None and config.match == "order":
        load_into(model, read_checkpoint(path), "order", path)
    elif path is not None:
        _load(model, path)
    return model.eval()


def _load(model: Any, path: Any) -> None:
    """By open_clip's own loader, which knows the other layouts that CLIP checkpoints come in."""
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except pickle.UnpicklingError:
        # PyTorch's own message says how to run the code nevertheless.
        raise ConfigError(
            f"model.weights: {str(path)!r} is no checkpoint that torch loads with weights_only=True; "
            "save its state_dict with safetensors"
        ) from None
    except Exception as error:
        raise ConfigError(f"model.weights: {str(path)!r} does not fit the backbone: {str(error)[:1000]}") from None
    check_numbers(model.state_dict(), f"model.weights: {str(path)!r}")


def _no_pretrained(record: logging.LogRecord) -> bool:
    return "No pretrained weights loaded" not in record.getMessage()


def _set_pool(visual: Any, pool: str) -> None:
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None:
        raise ConfigError("model.pool: only ViTs with a class token or mean pooling can change their pooling")
    visual.pool_type = POOL_TYPES[pool]


def _transform(model: Any, config: ModelConfig) -> Transform:
    data = open_clip.get_model_preprocess_cfg(model)
    size = config.image_size or data["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if config.resize is None and data.get("resize_mode", "shortest") not in ("shortest", "squash"):
        raise ConfigError(
            f"model.resize: this backbone was trained with resize mode {data['resize_mode']!r}; "
            "say shortest or squash to choose another"
        )
    return Transform(
        size=(height, width),
        resize=config.resize or data.get("resize_mode", "shortest"),
        crop_pct=config.crop_pct or 1.0,
        interpolation=config.interpolation or data.get("interpolation", "bicubic"),
        mean=config.mean or tuple(data["mean"]),
        std=config.std or tuple(data["std"]),
    )
