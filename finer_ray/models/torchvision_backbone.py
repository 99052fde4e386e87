"""torchvision's classifiers: names, weights, preprocessing and heads."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
import torchvision
from torch import nn
from torchvision.models import VisionTransformer, WeightsEnum
from torchvision.models.vision_transformer import interpolate_embeddings

from finer_ray.config.messages import brief
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import crop_share
from finer_ray.models.arguments import constructor_arguments, extra_arguments
from finer_ray.models.backbone import Backbone, check_pool, check_tag, transform_of, unknown_model
from finer_ray.models.checkpoint import load_into, read_checkpoint, unwrapped, weights_file
from finer_ray.models.head import LinearHead
from finer_ray.models.network import silence
from finer_ray.models.preprocessing import advice, chosen, with_preprocessing
from finer_ray.models.torchvision_split import last, split_torchvision

MODES = {"shortest": "shortest"}
# torchvision's own word for its best weights of a model.
DEFAULT = "DEFAULT"
# Names in DenseNet's published weights, of which two dots are left out today.
OLD_NAMES = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


def build(config: ModelConfig, classes: tuple[str, ...] = (), concepts: tuple[str, ...] = ()) -> Backbone:
    """A classifier of torchvision's, see `Library.build`; it has no text tower, to which classes would go."""
    name = config.backbone.removeprefix("torchvision:")
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise unknown_model(config, names)
    if config.pool is not None:
        check_pool(False)
    found = torchvision.models.get_model_weights(name)
    tags: dict[str, WeightsEnum] = {weights.name: weights for weights in found}
    path = weights_file(config.weights)
    if path is not None:
        config = with_preprocessing(config, {}, {tag: _published(weights) for tag, weights in tags.items()})
    elif config.weights not in ("random", DEFAULT):
        check_tag(config, [*tags, DEFAULT])
    weights = tags.get(config.weights, found.DEFAULT)
    model = _create(name, path, weights, config)
    classifier = last(model)
    if config.head != "native":
        _replace(model, classifier, nn.Identity())
    data = _published(weights)
    return Backbone(
        split_torchvision(model),
        transform_of(config, data, data["size"], "resize", MODES),
        LinearHead.from_linear(classifier) if config.head == "native" else None,
    )


def _published(weights: WeightsEnum) -> dict[str, Any]:
    """How images are prepared for some weights: torchvision's preset."""
    preset = weights.transforms()
    (size,), (crop,) = preset.resize_size, preset.crop_size
    settings = {"mean": preset.mean, "std": preset.std, "interpolation": preset.interpolation.value}
    return chosen({**settings, "resize": "shortest"}, "resize", MODES) | {
        "size": crop,
        "crop_pct": crop_share(crop, size),
    }


def _create(name: str, path: Path | None, weights: WeightsEnum, config: ModelConfig) -> nn.Module:
    """The model with its weights, with all of its classifier."""
    options = _options(name, config)
    if config.weights == "random":
        return _model(name, options)
    state = _fetched(weights, config) if path is None else read_checkpoint(path)
    if config.match == "name":
        sketch = _sketch(name, options)
        state = unwrapped(state, sketch.state_dict())
        if (own := state.get(f"{_name_of(sketch, last(sketch))}.weight")) is not None:
            options["num_classes"] = len(own)
    model = _model(name, options)
    if isinstance(model, VisionTransformer) and "encoder.pos_embedding" in state:
        state = dict(interpolate_embeddings(model.image_size, model.patch_size, dict(state)))
    load_into(model, state, config.match, path or Path(config.weights))
    return model


def _fetched(weights: WeightsEnum, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Published weights, from torch's cache or the network; a pickle with code in it is refused."""
    try:
        if not Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(weights.url).path).name).is_file():
            _ask_for(weights.url)
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ConfigError(
            f"model.weights: the pretrained weights {config.weights!r} of {config.backbone} are not in the cache "
            f"{torch.hub.get_dir()}, and cannot be fetched ({brief(error)}): {advice(_published(weights))}"
        ) from None
    return {OLD_NAMES.sub(r"\1\2.", name): value for name, value in state.items()}


def _ask_for(url: str) -> None:
    """Raises OSError where a server does not answer in a moment; torch itself would wait for minutes."""

    def ask() -> None:
        # A refusal is an answer, too; a mirror may take no HEAD.
        with suppress(HTTPError):
            urlopen(Request(url, method="HEAD")).close()  # noqa: S310

    if fault := silence(ask, str(urlsplit(url).hostname)):
        raise OSError(fault)


def _options(name: str, config: ModelConfig) -> dict[str, Any]:
    """`model.kwargs` and the size, as arguments of the model's class.

    Raises:
        ConfigError: an argument or a size that it does not take.
        Unsupported: a model that cannot be cut; before its weights are fetched.
    """
    sketch = _sketch(name, {})
    split_torchvision(sketch)
    options = extra_arguments(config, constructor_arguments(sketch)) if config.kwargs else {}
    if isinstance(sketch, VisionTransformer) and config.image_size is not None:
        sides = {config.image_size} if isinstance(config.image_size, int) else {*config.image_size}
        if len(sides) > 1:
            raise ConfigError(f"model.image_size: {config.backbone} takes square images alone")
        options["image_size"] = sides.pop()
    try:
        _sketch(name, options)
    except Exception as error:
        raise ConfigError(f"model.kwargs: {config.backbone} cannot be made with {options}: {brief(error)}") from None
    return options


def _model(name: str, options: Mapping[str, Any]) -> nn.Module:
    """One of torchvision's models with random weights."""
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def _sketch(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Such a model without values, which takes no time; with them where it cannot be made so."""
    try:
        with torch.device("meta"):
            return _model(name, options)
    except NotImplementedError:
        # By torch, of a tensor on `meta` whose values are asked for, as RegNet does while it is made.
        return _model(name, options)


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    """A module's name in a model."""
    found: str = next(name for name, module in model.named_modules() if module is wanted)
    return found


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module into the place of another."""
    parent, _, name = _name_of(model, old).rpartition(".")
    setattr(model.get_submodule(parent), name, new)
