"""`model.kwargs`: further arguments of a library's create function, none of which may choose weights."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from finer_ray.config.messages import nearest
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError

# Names of arguments by which a create function would take weights, or code, past the checks of `model.weights`.
LOADING = (
    "cache_dir",
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "revision",
    "state_dict",
    "token",
    "trust_remote_code",
    "weights",
)
# Arguments of create functions that are decided elsewhere, and by what.
DECIDED: Mapping[str, str] = {
    **dict.fromkeys(("num_classes", "num_labels", "id2label", "label2id"), "model.head"),
    **dict.fromkeys(("in_chans", "num_channels"), "the photos, which have three channels,"),
    **dict.fromkeys(LOADING, "model.weights"),
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
        if name in DECIDED:
            raise ConfigError(f"model.kwargs: {name} cannot be given: {DECIDED[name]} decides it")
        if name not in known:
            raise ConfigError(
                f"model.kwargs: {config.backbone} takes no {name!r}{nearest(name, sorted({*known} - DECIDED.keys()))}"
            )
    return dict(config.kwargs)


def constructor_arguments(model: Any) -> set[str]:
    """Names of the arguments that a module's class is made with."""
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = inspect.signature(type(model)).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in kinds}
