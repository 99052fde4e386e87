"""timm backbones: names, weights, preprocessing and classifiers."""

from pathlib import Path
from typing import Any

import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from finer_ray.config.messages import nearest
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.backbone import Backbone, check_pool, check_tag, one_size, transform_of, unknown_model
from finer_ray.models.checkpoint import load_into, name_faults, read_checkpoint, unwrapped, weights_file
from finer_ray.models.head import LinearHead
from finer_ray.models.preprocessing import advice, chosen, read_beside, with_preprocessing
from finer_ray.models.timm_split import native_head, split_timm

# `model.resize` for timm's crop modes.
MODES = {"center": "shortest", "squash": "squash", "border": "pad"}


def build(config: ModelConfig, classes: tuple[str, ...] = (), concepts: tuple[str, ...] = ()) -> Backbone:
    """A timm backbone, see `Library.build`; timm has no text towers, to which classes and concepts would go."""
    name = config.backbone.removeprefix("timm:")
    if not timm.is_model(name):
        raise unknown_model(config, timm.list_models())
    plain, _, tag = name.partition(".")
    if tag and tag not in _tags(plain):
        raise ConfigError(f"model.backbone: timm:{plain} has no pretrained tag {tag!r}{nearest(tag, _tags(plain))}")
    native = config.head == "native"
    path = weights_file(config.weights)
    if path is not None:
        config = with_preprocessing(config, _beside(path, name), _published(name))
    try:
        model = _create(name, path, config, native)
    except TypeError as error:
        if "dynamic_img_size" in str(error):
            raise one_size(f"timm's {name} has no dynamic_img_size") from None
        raise
    if config.pool is not None:
        _set_pool(model, config.pool)
    head = _classifier(model, name) if native else None
    data = timm.data.resolve_model_data_config(model)
    return Backbone(split_timm(model), transform_of(config, data, data["input_size"][1:], "crop_mode", MODES), head)


def _tags(name: str) -> list[str]:
    """A model's pretrained tags."""
    return [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]


def _published(name: str) -> dict[str, dict[str, Any]]:
    """The preprocessing of the model's pretrained tags, by tag; of one alone where the name has it (NAME.TAG)."""
    plain, _, own = name.partition(".")
    return {
        tag: chosen(timm.get_pretrained_cfg(f"{plain}.{tag}").to_dict(), "crop_mode", MODES)
        for tag in ([own] if own else _tags(plain))
    }


def _beside(path: Path, name: str) -> dict[str, Any]:
    """The preprocessing that a timm config beside a file of weights tells, if it is of this architecture."""
    tree = read_beside(path, "config.json")
    if tree.get("architecture") != name.partition(".")[0]:
        return {}
    settings = tree.get("pretrained_cfg", tree)
    return chosen(settings, "crop_mode", MODES) if isinstance(settings, dict) else {}


def _create(name: str, path: Path | None, config: ModelConfig, native: bool) -> Any:
    """The timm model with its weights; `num_classes=0` leaves the classifier off."""
    options: dict[str, Any] = {} if native else {"num_classes": 0}
    if timm.get_pretrained_cfg(name).fixed_input_size:
        if config.resize == "native":
            # Position embeddings of the model's own size are brought to that of each batch.
            options["dynamic_img_size"] = True
        elif config.image_size is not None:
            options["img_size"] = config.image_size
    if path is None and config.weights == "random":
        return timm.create_model(name, **options)
    if path is None:
        return _pretrained(name, config, options)
    state = read_checkpoint(path)
    key = f"{timm.get_pretrained_cfg(name).classifier}.weight"
    # In the checkpoint of a larger model the name has a prefix, or several where its means are kept, too.
    heads = [key] if key in state else [other for other in state if other.endswith(f".{key}")]
    counts = {len(state[head]) for head in heads if state[head].ndim}
    if native and config.match == "name" and len(counts) == 1:
        options["num_classes"] = counts.pop()
    model = timm.create_model(name, **options)
    if config.match == "order" and not native and len(state) != len(model.state_dict()):
        # The file has a classifier, which cannot be told from the rest by its name.
        del options["num_classes"]
        model = timm.create_model(name, **options)
        load_into(model, state, "order", path)
        model.reset_classifier(0)
        return model
    if config.match == "name":
        state = _adapted(model, unwrapped(state, model.state_dict()), native, path)
    load_into(model, state, config.match, path)
    return model


def _pretrained(name: str, config: ModelConfig, options: dict[str, Any]) -> Any:
    plain, _, named = name.partition(".")
    tag = config.weights
    if named:
        raise ConfigError(
            f"model.backbone: {named!r} is a pretrained tag, and has its own key: write model.backbone: timm:{plain} "
            f"and model.weights: {tag}"
        )
    check_tag(config, _tags(name))
    try:
        return timm.create_model(f"{name}.{tag}", pretrained=True, **options)
    except TypeError:
        # An option that the model does not have.
        raise
    except Exception as error:
        raise ConfigError(
            f"model.weights: the pretrained weights {tag!r} of timm:{name} cannot be fetched ({error}); "
            f"{advice(_published(name)[tag])}"
        ) from error


def _adapted(model: Any, state: dict[str, Tensor], native: bool, path: Path) -> dict[str, Tensor]:
    """A checkpoint as timm itself would take it: other authors' ViT names and sizes, no surplus classifier."""
    if isinstance(model, VisionTransformer):
        try:
            state = checkpoint_filter_fn(state, model)
        except Exception as error:
            why = name_faults(state, model.state_dict()) or f"{type(error).__name__}: {error}"
            raise ConfigError(f"model.weights: {str(path)!r} does not fit the backbone: {why}") from None
    if native:
        return state
    classifier = timm.get_pretrained_cfg(model.pretrained_cfg["architecture"]).classifier or ""
    prefixes = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier) if name)
    return {key: value for key, value in state.items() if not (prefixes and key.startswith(prefixes))}


def _set_pool(model: Any, pool: str) -> None:
    check_pool(isinstance(model, VisionTransformer | Eva) and model.attn_pool is None)
    if pool == "token" and model.cls_token is None:
        raise ConfigError("model.pool: this ViT has no class token; use avg")
    model.global_pool = pool


def _classifier(model: Any, name: str) -> LinearHead:
    head = native_head(model)
    if head is None:
        raise ConfigError(
            f"model.head: timm:{name} has no linear native classifier; give a safetensors file with weight, bias"
        )
    return head
