"""open_clip backbones: ViTs with class-token or mean pooling, ResNets with attention pooling, timm towers."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import resize_pos_embed, resize_text_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from finer_ray.config.schema import LOCAL_DIR, ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.backbone import Backbone, check_pool, check_tag, transform_of, unknown_model
from finer_ray.models.checkpoint import (
    check_kinds,
    check_numbers,
    load_into,
    name_faults,
    read_checkpoint,
    unwrapped,
    weights_file,
)
from finer_ray.models.head import LinearHead
from finer_ray.models.openclip_folder import CONFIG, OpenClipFolder
from finer_ray.models.plain_block import PlainBlock, layer_scale
from finer_ray.models.preprocessing import advice, agreed, chosen, read_beside, with_preprocessing
from finer_ray.models.split import MapSplit, Split, TokenSplit, Unsupported
from finer_ray.models.timm_backbone import split_timm
from finer_ray.saliency.split_classifier import Attention

POOL_TYPES = {"token": "tok", "avg": "avg"}
# Of open_clip's names: from its hub, and of models with the activation of OpenAI's CLIP.
HF_HUB, QUICK = "hf-hub:", "-quickgelu"
# `model.resize` for open_clip's resize modes; the third one, longest, is none of ours.
MODES = {"shortest": "shortest", "squash": "squash"}


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

    @property
    def own_patches(self) -> bool:
        """The tower's."""
        return self.tower[0].own_patches


def split_openclip(visual: Any) -> Split:
    """Cut an open_clip image tower. Raises Unsupported."""
    if isinstance(visual, VisionTransformer):
        return OpenClipViT(visual)
    if isinstance(visual, ModifiedResNet):
        return OpenClipResNet(visual)
    if isinstance(visual, TimmModel):
        return OpenClipTimm(visual)
    raise Unsupported(f"an image tower of type {type(visual).__name__}")


def build(config: ModelConfig, classes: tuple[str, ...], concepts: tuple[str, ...]) -> Backbone:
    """An open_clip backbone with the heads that its text tower makes, see `Library.build`."""
    name, folder = config.backbone.removeprefix("open_clip:"), None
    if name.startswith(LOCAL_DIR):
        folder = OpenClipFolder.read(name.removeprefix(LOCAL_DIR))
        name = folder.name
    elif name.startswith(HF_HUB):
        raise ConfigError(
            "model.backbone: open_clip's hf-hub: names are not supported yet: download the repository's folder, and "
            "write model.backbone: open_clip:local-dir:FOLDER and model.weights: FOLDER/FILE"
        )
    elif name not in open_clip.list_models():
        raise unknown_model(config, open_clip.list_models())
    path = weights_file(config.weights)
    if path is not None and folder is None:
        config = with_preprocessing(config, _beside(path, name), _published(name))
    elif config.weights == "random" and folder is None:
        config = with_preprocessing(config, agreed(_published(name)), {})
    model = _create(name, path, config)
    texts = {"head": classes if config.head == "text" else (), "concepts": concepts}
    tokenizer = folder.tokenizer if folder else partial(open_clip.get_tokenizer, name)
    heads = {
        part: text_head(model, tokenizer(), prompts, config.templates) for part, prompts in texts.items() if prompts
    }
    if config.pool is not None:
        _set_pool(model.visual, config.pool)
    identity = folder.identity if folder else ""
    data = {**asdict(PreprocessCfg()), "crop_pct": 1.0, **open_clip.get_model_preprocess_cfg(model)}
    transform = transform_of(config, data, data["size"], "resize_mode", MODES)
    return Backbone(split_openclip(model.visual), transform, **heads, identity=identity)


def text_head(model: Any, tokenizer: Any, names: tuple[str, ...], templates: list[str]) -> LinearHead:
    """The zero-shot head (CLIP, section 3.1.4): per class the mean of its prompts' normalised embeddings,
    normalised; logits are scale * cosine + bias with the model's own scale and bias."""
    weights = open_clip.build_zero_shot_classifier(
        model, tokenizer, classnames=names, templates=[template.format for template in templates]
    ).T
    bias = getattr(model, "logit_bias", None)
    biases = None if bias is None else bias.detach().expand(len(weights))
    return LinearHead(weights, biases, scale=model.logit_scale.exp().item(), normalize=True)


def _published(name: str) -> dict[str, dict[str, Any]]:
    """The preprocessing of the model's pretrained tags, by tag."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    return {tag: chosen(_tag_config(name, tag), "resize_mode", MODES) for tag in tags}


def _tag_config(name: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of a tag; what that leaves open is as open_clip's default has it."""
    return {**asdict(PreprocessCfg()), **open_clip.get_pretrained_cfg(name, tag)}


def _beside(path: Path, name: str) -> dict[str, Any]:
    """The preprocessing that an open_clip config beside a file of weights tells.

    Raises:
        ConfigError: it says that the weights have another activation than the model.
    """
    tree = read_beside(path, CONFIG)
    model, settings = tree.get("model_cfg"), tree.get("preprocess_cfg")
    if isinstance(model, dict):
        check_activation(name, bool(model.get("quick_gelu", False)), f"{str(path)!r}")
    if not isinstance(settings, dict):
        return {}
    return chosen({**asdict(PreprocessCfg()), **settings}, "resize_mode", MODES)


def check_activation(name: str, quick: bool, weights: str) -> None:
    """Refuse weights that were trained with another activation than the model's; open_clip only warns.

    Args:
        name: of the model.
        quick: whether the weights were trained with QuickGELU.
        weights: what messages call them.

    Raises:
        ConfigError: with the model that has the right one.
    """
    models = open_clip.list_models()
    other = f"{name}{QUICK}" if quick else name.removesuffix(QUICK)
    # A model of which there is no other form was trained as it is, whatever its tag leaves unsaid (roberta-ViT-B-32).
    if other == name or other not in models or quick == bool(open_clip.get_model_config(name).get("quick_gelu", False)):
        return
    kind = "QuickGELU" if quick else "GELU"
    raise ConfigError(
        f"model.weights: {weights} were trained with {kind}, which open_clip:{name} does not have: use model.backbone "
        f"open_clip:{other}"
    )


def _create(name: str, path: Path | None, config: ModelConfig) -> Any:
    tag = None if path is not None or config.weights == "random" else config.weights
    if tag is not None:
        check_tag(config, open_clip.list_pretrained_tags_by_model(name))
        check_activation(name, bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)), repr(tag))
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
        away = f"; where the network is missing, {advice(_published(name)[tag])}" if tag is not None else ""
        raise ConfigError(
            f"model.weights: open_clip:{name} with {tag or 'no weights'} cannot be made ({error}){away}"
        ) from error
    finally:
        logging.getLogger().removeFilter(_no_pretrained)
    if path is not None and config.match == "order":
        load_into(model, read_checkpoint(path), "order", path)
    elif path is not None:
        _load(model, path)
    return model.eval()


def _load(model: Any, path: Path) -> None:
    """Weights by their names; in the other layouts that CLIP checkpoints come in, by open_clip's own loader."""
    where, wanted = f"model.weights: {str(path)!r}", model.state_dict()
    differing = ""
    try:
        if path.suffix == ".npz":
            open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
        else:
            state = unwrapped(read_checkpoint(path), wanted)
            check_kinds(state, wanted, where)
            differing = name_faults(state, wanted)
            if differing:
                open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
            else:
                model.load_state_dict(_resized(model, state, wanted))
    except ConfigError:
        raise
    except Exception as error:
        # numpy's and torch's messages say how to run code in a file nevertheless; a KeyError says nothing.
        fault = str(error)[:1000] if "size mismatch" in str(error) else differing
        what = f"does not fit the backbone: {fault or type(error).__name__}"
        if path.suffix == ".npz":
            what = f"is no .npz archive of a SigLIP checkpoint that open_clip reads ({type(error).__name__})"
        raise ConfigError(f"{where} {what}") from None
    check_numbers(model.state_dict(), where)


def _resized(model: Any, state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint with the model's own names, its position embeddings for the model's sizes, as open_clip does it."""
    # CLIP's scale and bias have been numbers and vectors of one.
    state = {name: value.reshape(wanted[name].shape) if value.numel() == 1 else value for name, value in state.items()}
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    return state


def _no_pretrained(record: logging.LogRecord) -> bool:
    return "No pretrained weights loaded" not in record.getMessage()


def _set_pool(visual: Any, pool: str) -> None:
    check_pool(isinstance(visual, VisionTransformer) and visual.attn_pool is None)
    visual.pool_type = POOL_TYPES[pool]
