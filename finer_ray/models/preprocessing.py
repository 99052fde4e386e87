"""The preprocessing that weights were trained with, where they come from a file, which holds tensors alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError

# Of the section `model`. (What is cut off at the borders, `crop_pct`, differs by tag more often and matters less.)
KEYS = ("mean", "std", "resize", "interpolation")
# Tags that a message names for one value.
MAX_TAGS = 3


def with_preprocessing(
    config: ModelConfig, beside: Mapping[str, Any], tags: Mapping[str, Mapping[str, Any]]
) -> ModelConfig:
    """A config for weights from a file, with the keys of the preprocessing that it leaves open.

    They are those of a config beside the file, else what all published weights of the backbone have; a backbone
    without any has its library's default.

    Args:
        config: the section `model`.
        beside: values of `KEYS` from a config beside the file; empty where there is none.
        tags: values of `KEYS` for each pretrained tag of the backbone, by the tag's name.

    Raises:
        ConfigError: the tags differ, and nothing says which of them the file is; or `beside` has impossible values.
    """
    given = {key for key in KEYS if getattr(config, key) is not None}
    found = {key: value for key, value in {**agreed(tags), **beside}.items() if key not in given}
    differing = {key for settings in tags.values() for key in settings} - given - found.keys()
    unclear = [f"model.{key} ({_by_value(key, tags)})" for key in KEYS if key in differing]
    if unclear:
        raise ConfigError(
            "model.weights: a file does not tell how its images were prepared, and the published weights of "
            f"{config.backbone} differ in it: set {', '.join(unclear)}"
        )
    try:
        return ModelConfig.model_validate({**config.model_dump(), **found})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(
            f"model.weights: the config beside {config.weights!r} has no usable {fault['loc'][0]} ({fault['msg']}): "
            f"set model.{fault['loc'][0]}"
        ) from None


def agreed(tags: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Values of `KEYS` that all pretrained tags of a backbone have; arguments as of `with_preprocessing`."""
    values = {key: {settings[key] for settings in tags.values() if key in settings} for key in KEYS}
    return {key: found.pop() for key, found in values.items() if len(found) == 1}


def advice(settings: Mapping[str, Any]) -> str:
    """What to do where weights cannot be fetched, with the preprocessing that belongs to them."""
    keys = ", ".join(f"model.{key}: {shown(settings[key])}" for key in KEYS if key in settings)
    return (
        "run `finer-ray fetch job.yaml` on a machine with network, or download them elsewhere and give the file's "
        f"path, with {keys}"
    )


def read_beside(weights: Path, name: str) -> dict[str, Any]:
    """The JSON object of a config in the folder of a file of weights; empty where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    file = weights.parent / name
    return read_json(file, f"model.weights: {str(file)!r}, beside the file,") if file.is_file() else {}


def read_json(file: Path, where: str) -> dict[str, Any]:
    """A JSON object; {} for any other value.

    Args:
        file: its path.
        where: beginning of the message.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be read as JSON: {error}") from None
    return tree if isinstance(tree, dict) else {}


def chosen(settings: Mapping[str, Any], resize: str, modes: Mapping[str, str]) -> dict[str, Any]:
    """Values of `KEYS` from a library's description of preprocessing; those that it lacks are left out.

    Args:
        settings: the library's, as it names them.
        resize: its key for how images are resized.
        modes: its values of that key as values of `model.resize`; others are left out.
    """
    found = {key: settings[key] for key in KEYS if settings.get(key) is not None}
    if (mode := modes.get(str(settings.get(resize)))) is not None:
        found["resize"] = mode
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def shown(value: object) -> str:
    """A value as it is written in a job."""
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _by_value(key: str, tags: Mapping[str, Mapping[str, Any]]) -> str:
    owners: dict[str, list[str]] = {}
    for tag, settings in tags.items():
        owners.setdefault(shown(settings.get(key)), []).append(tag)
    more = {value: ", ..." if len(names) > MAX_TAGS else "" for value, names in owners.items()}
    return "; ".join(f"{value}: {', '.join(names[:MAX_TAGS])}{more[value]}" for value, names in owners.items())
