"""timm backbones: names, folders and repositories, weights, preprocessing and classifiers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from finer_ray.config.messages import nearest
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.arguments import constructor_arguments, extra_arguments
from finer_ray.models.backbone import Backbone, check_pool, check_tag, one_size, transform_of, unknown_model
from finer_ray.models.checkpoint import load_into, name_faults, read_checkpoint, unwrapped
from finer_ray.models.head import LinearHead
from finer_ray.models.hub import Repository, repository, weights_of
from finer_ray.models.library import HF_HUB, LOCAL_DIR
from finer_ray.models.network import hub_fault
from finer_ray.models.preprocessing import advice, chosen, read_beside, read_json, with_preprocessing
from finer_ray.models.timm_split import native_head, split_timm

# `model.resize` for timm's crop modes.
MODES = {"center": "shortest", "squash": "squash", "border": "pad"}
CONFIG = "config.json"
# Weights in a folder or repository, the best first.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Named:
    """What `model.backbone` names.

    Attributes:
        architecture: timm's name of it, with a pretrained tag where the config wrote one.
        repository: the folder that describes it, if one does.
        arguments: of the create function, that the folder's config gives.
    """

    architecture: str
    repository: Repository | None = None
    arguments: str = ""

    @property
    def full(self) -> str:
        """What timm's create function calls it."""
        return self.architecture if self.repository is None else f"{LOCAL_DIR}{self.repository.path}"

    @property
    def identity(self) -> str:
        """What decides the outputs of a folder's model, the weights apart; '' of timm's own names."""
        return "" if self.repository is None else f"timm:{LOCAL_DIR} {self.architecture} {self.arguments}"


def build(config: ModelConfig, classes: tuple[str, ...] = (), concepts: tuple[str, ...] = ()) -> Backbone:
    """A timm backbone, see `Library.build`; timm has no text towers, to which classes and concepts would go."""
    named = _named(config)
    name = named.architecture
    native = config.head == "native"
    path = weights_of(config, named.repository, WEIGHTS)
    if path is not None and named.repository is None:
        config = with_preprocessing(config, _beside(path, name), _published(name))
    try:
        model = _create(named, path, config, native)
    except TypeError as error:
        if config.resize == "native" and "dynamic_img_size" in str(error):
            raise one_size(f"timm's {name} has no dynamic_img_size") from None
        raise
    if config.pool is not None:
        _set_pool(model, config.pool)
    head = _classifier(model, name) if native else None
    data = timm.data.resolve_model_data_config(model)
    size: Any = config.kwargs.get("img_size", data["input_size"][1:])
    return Backbone(
        split_timm(model),
        transform_of(config, data, size, "crop_mode", MODES),
        head,
        identity=named.identity,
        sources={} if named.repository is None else named.repository.sources,
        classes=_label_names(model, head) if named.repository and head else (),
    )


def _label_names(model: Any, head: LinearHead) -> tuple[str, ...]:
    """Names of the classes from a folder's config, where it has one for each."""
    names = model.pretrained_cfg.get("label_names")
    return tuple(map(str, names)) if isinstance(names, list) and len(names) == len(head.weight) else ()


def _named(config: ModelConfig) -> Named:
    """What the config names. Raises ConfigError where there is no such model, tag, folder or repository."""
    name = config.backbone.removeprefix("timm:")
    if config.library.is_folder(name):
        found = repository(config, [CONFIG])
        tree = read_json(found.path / CONFIG, f"model.backbone: {str(found.path / CONFIG)!r}")
        architecture, arguments = tree.get("architecture"), tree.get("model_args", {})
        if not isinstance(architecture, str):
            other = f"; it is of transformers: write transformers:{name.removeprefix(HF_HUB)}" * ("model_type" in tree)
            raise ConfigError(
                f"model.backbone: {config.backbone}: its {CONFIG} names no `architecture` of timm's{other}"
            )
        if not timm.is_model(architecture):
            raise ConfigError(
                f"model.backbone: {config.backbone} is of the architecture {architecture!r}, which timm does not have"
                f"{nearest(architecture, timm.list_models())}"
            )
        return Named(architecture, found, json.dumps(arguments, sort_keys=True))
    if not timm.is_model(name):
        raise unknown_model(config, timm.list_models())
    plain, _, tag = name.partition(".")
    if tag and tag not in _tags(plain):
        raise ConfigError(f"model.backbone: timm:{plain} has no pretrained tag {tag!r}{nearest(tag, _tags(plain))}")
    return Named(name)


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
    tree = read_beside(path, CONFIG)
    if tree.get("architecture") != name.partition(".")[0]:
        return {}
    settings = tree.get("pretrained_cfg", tree)
    return chosen(settings, "crop_mode", MODES) if isinstance(settings, dict) else {}


def _create(named: Named, path: Path | None, config: ModelConfig, native: bool) -> Any:
    """The timm model with its weights; `num_classes=0` leaves the classifier off."""
    name, full = named.architecture, named.full
    options = _options(full, config) | ({} if native else {"num_classes": 0})
    if timm.get_pretrained_cfg(name).fixed_input_size:
        if config.resize == "native":
            # Position embeddings of the model's own size are brought to that of each batch.
            options["dynamic_img_size"] = True
        elif config.image_size is not None and not options.get("dynamic_img_size"):
            options["img_size"] = config.image_size
    if path is None and config.weights == "random":
        return timm.create_model(full, **options)
    if path is None:
        return _pretrained(named, config, options)
    state = read_checkpoint(path)
    key = f"{timm.get_pretrained_cfg(name).classifier}.weight"
    # In the checkpoint of a larger model the name has a prefix, or several where its means are kept, too.
    heads = [key] if key in state else [other for other in state if other.endswith(f".{key}")]
    counts = {len(state[head]) for head in heads if state[head].ndim}
    if native and config.match == "name" and len(counts) == 1:
        options["num_classes"] = counts.pop()
    model = timm.create_model(full, **options)
    if config.match == "order" and not native and len(state) != len(model.state_dict()):
        # The file has a classifier, which cannot be told from the rest by its name.
        del options["num_classes"]
        model = timm.create_model(full, **options)
        load_into(model, state, "order", path)
        model.reset_classifier(0)
        return model
    if config.match == "name":
        state = _adapted(model, unwrapped(state, model.state_dict()), native, path)
    load_into(model, state, config.match, path)
    return model


def _options(full: str, config: ModelConfig) -> dict[str, Any]:
    """`model.kwargs`, if they are arguments of the model's class. Raises ConfigError."""
    if not config.kwargs:
        return {}
    if config.image_size is not None and "img_size" in config.kwargs:
        raise ConfigError("model.kwargs: img_size and model.image_size both give the size: leave one out")
    with torch.device("meta"):
        known = constructor_arguments(timm.create_model(full))
    options = extra_arguments(config, known)
    try:
        with torch.device("meta"):
            timm.create_model(full, **options)
    except Exception as error:
        raise ConfigError(f"model.kwargs: {config.backbone} cannot be made with {options}: {error}") from None
    return options


def _pretrained(named: Named, config: ModelConfig, options: dict[str, Any]) -> Any:
    name, tag = named.architecture, config.weights
    plain, _, written = name.partition(".")
    if named.repository is not None:
        raise ConfigError(
            f"model.weights: {tag!r} is neither a file nor random; the weights of {config.backbone} itself are meant "
            "where the key is left out"
        )
    if written:
        raise ConfigError(
            f"model.backbone: {written!r} is a pretrained tag, and has its own key: write model.backbone: timm:{plain} "
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
            f"model.weights: the pretrained weights {tag!r} of timm:{name} cannot be fetched ({hub_fault(error)}): "
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
