"""`model.kwargs`: further arguments of a library's create function, none of which may choose weights."""

import inspect
from collections.abc import Collection
from typing import Any

from finer_ray.config.messages import nearest
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError

# Arguments of create functions for which the section has keys of its own.
OWN_KEYS = {
    "num_classes": "model.head",
    "num_labels": "model.head",
    "in_chans": "the photos, which have three channels,",
    "num_channels": "the photos, which have three channels,",
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir")
        + ("weights", "state_dict", "trust_remote_code", "revision", "token"),
        "model.weights",
    ),
}


def extra_arguments(config: ModelConfig, known: Collection[str]) -> dict[str, Any]:
    """`model.kwargs`, if they are the library's.

    Args:
        config: the section `model`.
        known: names that the model takes.

    Raises:
        ConfigError: an unknown name, with the nearest known ones; or one that has a key of its own.
    """
    for name in config.kwargs:
        if name in OWN_KEYS:
            raise ConfigError(f"model.kwargs: {name} cannot be given: {OWN_KEYS[name]} decides it")
        if name not in known:
            raise ConfigError(
                f"model.kwargs: {config.backbone} takes no {name!r}{nearest(name, sorted({*known} - OWN_KEYS.keys()))}"
            )
    return dict(config.kwargs)


def constructor_arguments(model: Any) -> set[str]:
    """Names of the arguments that a module's class is made with."""
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = inspect.signature(type(model)).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in kinds}
