"""open_clip backbones: names, weights, preprocessing and the heads that text towers make."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from open_clip.factory import resize_pos_embed, resize_text_pos_embed
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.arguments import extra_arguments
from finer_ray.models.backbone import Backbone, check_pool, check_tag, transform_of, unknown_model
from finer_ray.models.checkpoint import (
    check_kinds,
    check_numbers,
    load_into,
    name_faults,
    read_checkpoint,
    unwrapped,
)
from finer_ray.models.head import LinearHead
from finer_ray.models.hub import weights_of
from finer_ray.models.library import LOCAL_DIR
from finer_ray.models.network import hub_fault
from finer_ray.models.openclip_folder import CONFIG, WEIGHTS, OpenClipFolder
from finer_ray.models.openclip_split import split_openclip
from finer_ray.models.preprocessing import advice, agreed, chosen, read_beside, with_preprocessing

POOL_TYPES = {"token": "tok", "avg": "avg"}
# Ends open_clip's names of models with the activation of OpenAI's CLIP.
QUICK = "-quickgelu"
# Arguments of its create function that `model.kwargs` may give.
ARGUMENTS = ("force_quick_gelu", "force_context_length", "force_custom_text")
# `model.resize` for open_clip's resize modes.
MODES = {"shortest": "shortest", "squash": "squash", "longest": "pad"}


def build(config: ModelConfig, classes: tuple[str, ...], concepts: tuple[str, ...]) -> Backbone:
    """An open_clip backbone with the heads that its text tower makes, see `Library.build`."""
    name, folder = config.backbone.removeprefix("open_clip:"), None
    if config.library.is_folder(name):
        folder = OpenClipFolder.read(config)
        name = folder.name
    elif name not in open_clip.list_models():
        raise unknown_model(config, open_clip.list_models())
    path = weights_of(config, folder.repository if folder else None, WEIGHTS)
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
    data = {**asdict(PreprocessCfg()), "crop_pct": 1.0, **open_clip.get_model_preprocess_cfg(model)}
    transform = transform_of(config, data, data["size"], "resize_mode", MODES)
    identity, sources = (folder.identity, folder.repository.sources) if folder else ("", {})
    return Backbone(
        split_openclip(model.visual),
        transform,
        heads.get("head"),
        heads.get("concepts"),
        identity=identity,
        sources=sources,
    )


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
    arguments = extra_arguments(config, ARGUMENTS)
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
            **arguments,
        )
    except Exception as error:
        away = f"; where the network is missing, {advice(_published(name)[tag])}" if tag is not None else ""
        raise ConfigError(
            f"model.weights: open_clip:{name} with {tag or 'no weights'} cannot be made ({hub_fault(error)}){away}"
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
