"""transformers' image models: repositories and folders, weights, preprocessing and classifiers; no code of theirs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finer_ray.config.messages import brief
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import crop_share
from finer_ray.models.arguments import extra_arguments
from finer_ray.models.backbone import Backbone, check_pool, transform_of
from finer_ray.models.checkpoint import check_numbers, read_checkpoint
from finer_ray.models.head import LinearHead
from finer_ray.models.hub import Repository, repository, weights_of
from finer_ray.models.preprocessing import read_json
from finer_ray.models.transformers_split import split_transformers

try:
    import transformers
except ImportError as missing:
    raise ConfigError(
        "model.backbone: transformers: needs the package of this name: install finer_ray[transformers]"
    ) from missing

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# Weights in a folder or repository, the best first; large ones are in several files, which an index names.
INDEX = "*.index.json"
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
CLASSIFIERS = ("classifier", "cls_classifier", "distillation_classifier")
IMAGE_CLASSIFIER = "ForImageClassification"
# Image towers of models of images and texts, by type.
TOWERS = {"clip": "CLIPVisionModelWithProjection", "siglip": "SiglipVisionModel"}
# A classifier made of one, and a tower saved by itself, have no projection.
UNPROJECTED = "CLIPVisionModel"
# Types whose pooler has a layer that was trained for another task, or not at all: the embedding is the class token.
UNPOOLED = ("vit", "deit")
MODES = {"shortest": "shortest", "squash": "squash"}
# Keys of a config that say where and how it was saved.
VOLATILE = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")
# PIL's filters by number.
FILTERS = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def build(config: ModelConfig, classes: tuple[str, ...] = (), concepts: tuple[str, ...] = ()) -> Backbone:
    """An image model of transformers, see `Library.build`; no text tower is read, to which classes would go."""
    if config.pool is not None:
        check_pool(False)
    if config.match == "order":
        raise ConfigError("model.match: order is not for transformers, which knows the names of its checkpoints")
    found = repository(config, [CONFIG, PROCESSOR, INDEX])
    with _quiet():
        return _built(found, config)


def _built(found: Repository, config: ModelConfig) -> Backbone:
    """The backbone of a folder."""
    settings = _settings(found.path, config)
    path = weights_of(config, found, WEIGHTS)
    if path is None and config.weights != "random":
        raise ConfigError(
            f"model.weights: {config.weights!r} is neither a file nor random; the weights of {config.backbone} itself "
            "are meant where the key is left out"
        )
    model = _model(settings, path, found, config).float().eval()
    data = _preprocessing(found.path, config)
    transform = transform_of(config, data, data["size"], "resize", MODES)
    shared: dict[str, Any] = {"identity": _identity(model, found), "sources": found.sources}
    kind = model.config.model_type
    if config.head != "native":
        return Backbone(split_transformers(model, kind, _embedding), transform, **shared)
    linears = _classifiers(model)
    split = split_transformers(model, kind, attrgetter("logits"), linears)
    return Backbone(split, transform, _head(linears), classes=_label_names(settings), **shared)


def _settings(folder: Path, config: ModelConfig) -> Any:
    """The model's config with `model.kwargs`, of an image tower alone."""
    try:
        settings = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(
            f"model.backbone: {str(folder / CONFIG)!r} is no config that transformers {transformers.__version__} knows "
            f"without code from elsewhere ({brief(error)})"
        ) from None
    native = config.head == "native"
    tower = settings if native else getattr(settings, "vision_config", settings)
    arguments = extra_arguments(config, [key for key, value in tower.to_dict().items() if not isinstance(value, dict)])
    for name, value in arguments.items():
        setattr(tower, name, value)
    tower.architectures = settings.architectures or []
    return tower


def _class(settings: Any, config: ModelConfig) -> Any:
    """transformers' class for a config: with a classifier where the config asks for the model's own."""
    named = [name for name in settings.architectures if IMAGE_CLASSIFIER in name]
    if config.head == "native":
        found = getattr(transformers, named[0], None) if named else None
        if found is None:
            raise ConfigError(
                f"model.head: {config.backbone} is no image classifier (its architecture: "
                f"{', '.join(settings.architectures) or 'none'}): give a safetensors file with weight, bias, or none"
            )
        return found
    tower = TOWERS.get(settings.model_type.removesuffix("_vision_model"))
    if tower is not None:
        bare = tower.startswith(UNPROJECTED) and (named or UNPROJECTED in settings.architectures)
        return getattr(transformers, UNPROJECTED if bare else tower)
    found = transformers.MODEL_MAPPING.get(type(settings), None)
    if found is None:
        raise ConfigError(f"model.backbone: {config.backbone} is a {settings.model_type!r}, no model of images")
    return found


def _model(settings: Any, path: Path | None, found: Repository, config: ModelConfig) -> Any:
    """The model, all of whose weights are in the files."""
    kind = _class(settings, config)
    # Otherwise one is made that no checkpoint of a classifier has.
    options = {"add_pooling_layer": False} if settings.model_type in UNPOOLED and config.head != "native" else {}
    if path is None:
        return kind(settings, **options)
    own = path.parent == found.path
    if path.suffix == ".bin":
        # Refused here where it holds code; transformers reads it with weights_only, too.
        read_checkpoint(path)
    try:
        model, report = kind.from_pretrained(
            found.path if own else None,
            config=settings,
            state_dict=None if own else read_checkpoint(path),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=path.suffix == ".safetensors" if own else None,
            output_loading_info=True,
            **options,
        )
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"model.weights: {str(path)!r} does not fit the backbone: {brief(error)}") from None
    faults = [*report["missing_keys"], *(str(entry[0]) for entry in report["mismatched_keys"])]
    if faults:
        raise ConfigError(
            f"model.weights: {str(path)!r} does not fit the backbone: {len(faults)} tensors missing or of another "
            f"shape ({', '.join(sorted(faults)[:3])}{', ...' if len(faults) > 3 else ''})"
        )
    check_numbers(model.state_dict(), f"model.weights: {str(path)!r}")
    return model


def _identity(model: Any, found: Repository) -> str:
    """What decides the outputs, the weights apart; the same wherever the folder lies."""
    tree = read_json(found.path / CONFIG, f"model.backbone: {str(found.path / CONFIG)!r}")
    kept = {key: value for key, value in tree.items() if key not in VOLATILE}
    return f"transformers: {type(model).__name__} {json.dumps(kept, sort_keys=True)}"


def _embedding(output: Any) -> Tensor:
    """The image's embedding in a model's output: the projected one, the pooled one, or the class token."""
    for name in ("image_embeds", "pooler_output"):
        found: Tensor | None = output.get(name)
        if found is not None:
            return found.flatten(1)
    tokens: Tensor = output.last_hidden_state
    return tokens[:, 0]


def _classifiers(model: Any) -> list[nn.Linear]:
    """The linear layers that make the logits; two where a second one was distilled into."""
    parts = [getattr(model, name) for name in CLASSIFIERS if hasattr(model, name)]
    found = [[module for module in part.modules() if isinstance(module, nn.Linear)] for part in parts]
    if not found or any(len(linears) != 1 for linears in found):
        raise ConfigError(f"model.head: {type(model).__name__} has no linear classifier; give a safetensors file")
    return [linear for (linear,) in found]


def _head(linears: list[nn.Linear]) -> LinearHead:
    """The head; of two classifiers the mean of their logits."""
    weight = torch.cat([linear.weight for linear in linears], dim=1) / len(linears)
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    return LinearHead(weight, torch.stack(biases).mean(0) if biases else None)


def _label_names(settings: Any) -> tuple[str, ...]:
    """Names of the classes, where the config has them; transformers' own stand-ins are none."""
    names = tuple(str(settings.id2label[index]) for index in sorted(settings.id2label))
    return () if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def _preprocessing(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """How the image processor in a folder prepares photos, as `transform_of` takes it."""
    if not (folder / PROCESSOR).is_file():
        return _default(config)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return _described(processor)
    except Exception as error:
        raise ConfigError(f"model.backbone: {str(folder / PROCESSOR)!r} cannot be used: {brief(error)}") from None


def _default(config: ModelConfig) -> dict[str, Any]:
    """For a folder without an image processor: what the config says, or any where the weights are random."""
    keys = ("image_size", "mean", "std", "resize", "interpolation")
    missing = [f"model.{key}" for key in keys if getattr(config, key) is None]
    if missing and config.weights != "random":
        raise ConfigError(
            f"model.backbone: {config.backbone} has no {PROCESSOR}, which tells how photos are prepared: set "
            f"{', '.join(missing)}"
        )
    half = (0.5, 0.5, 0.5)
    return {"size": 224, "crop_pct": 1.0, "interpolation": "bicubic", "mean": half, "std": half, "resize": "squash"}


def _described(processor: Any) -> dict[str, Any]:
    """What an image processor does. Raises ValueError where `Transform` cannot do it."""
    size, crop = _sides(processor.size), None
    shortest = len(size) == 1
    if getattr(processor, "crop_pct", None) and shortest:
        # ConvNeXt's: below 384 pixels a crop of a larger image, else both sides at once.
        crop, shortest = size * 2, size[0] < 384
        size = (int(size[0] / processor.crop_pct),) if shortest else size * 2
    elif getattr(processor, "do_center_crop", None):
        crop = _sides(processor.crop_size)
    height, width = (crop or size) if len(crop or size) == 2 else (crop or size) * 2
    resample = int(processor.resample)
    if resample not in FILTERS:
        raise ValueError(f"resample {resample} is none of {FILTERS}; set model.interpolation")
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1.0)
    mean = processor.image_mean if processor.do_normalize else (0.0,) * 3
    std = processor.image_std if processor.do_normalize else (1.0,) * 3
    return {
        "size": (height, width),
        "crop_pct": crop_share(min(height, width), size[0]) if shortest or crop else 1.0,
        "interpolation": FILTERS[resample],
        "mean": tuple(value / factor for value in mean),
        "std": tuple(value / factor for value in std),
        "resize": "shortest" if shortest else "squash",
    }


def _sides(size: Mapping[str, int]) -> tuple[int, ...]:
    """(shortest side,) or (height, width) of a processor's size. Raises ValueError for others."""
    given = {key: value for key, value in dict(size).items() if value is not None}
    if given.keys() == {"shortest_edge"}:
        return (int(given["shortest_edge"]),)
    if given.keys() == {"height", "width"}:
        return int(given["height"]), int(given["width"])
    raise ValueError(f"a size by {', '.join(given) or 'nothing'} is neither shortest_edge nor height and width")


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers tells its log what it found in a checkpoint; here that becomes an error where it matters."""
    log = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()
