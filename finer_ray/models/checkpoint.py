"""Checkpoints: weights from files, read without ever unpickling code."""

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from finer_ray.config import nearest
from finer_ray.errors import ConfigError

PACKAGE = "package:"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")


def weights_file(weights: str) -> Path | None:
    """The file that `model.weights` names, or None where it names none (a tag, or random).

    `package:NAME/FILE` is a file inside an installed Python package.

    Raises:
        ConfigError: it looks like a file, and there is no such file or package.
    """
    packed = package_path(weights, "model.weights")
    if packed is not None:
        path = packed
    elif weights.endswith(SUFFIXES) or "/" in weights:
        path = Path(weights).expanduser()
    else:
        return None
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ConfigError(f"model.weights: no file {str(path)!r}{nearest(path.name, siblings)}")
    return path


def package_path(text: str, key: str) -> Path | None:
    """The place that `package:NAME/PLACE` names inside an installed Python package, or None for any other text.

    Args:
        text: of the config.
        key: where it stands there, for messages.

    Raises:
        ConfigError: there is no such package.
    """
    if not text.startswith(PACKAGE):
        return None
    package, _, inside = text.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(resources.files(package).joinpath(inside)))
    except ModuleNotFoundError:
        raise ConfigError(
            f"{key}: no Python package {package!r} is installed (`make install` brings the demo's)"
        ) from None


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a checkpoint that torch loads with weights_only, by name.

    Raises:
        ConfigError: unreadable, or it holds pickled code.
    """
    try:
        state: dict[str, Any] = timm.models.load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"model.weights: {str(path)!r} is neither safetensors nor a checkpoint that torch loads with "
            f"weights_only=True ({first}); save its state_dict with safetensors"
        ) from None
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def load_into(module: nn.Module, state: Mapping[str, Tensor], match: Literal["name", "order"], path: Path) -> None:
    """Load a checkpoint, every tensor of the module and nothing else.

    Args:
        module: gets the weights.
        state: tensors by name, in the file's order.
        match: `name`, or `order` for a checkpoint whose names differ but whose order and shapes do not.
        path: of the file, for messages.

    Raises:
        ConfigError: tensors are missing, left over, of another shape, or hold NaN.
    """
    check_numbers(state, f"model.weights: {str(path)!r}")
    if match == "order":
        state = _renamed(state, module.state_dict(), path)
    try:
        missing, surplus = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"model.weights: {str(path)!r} does not fit the backbone: {error}") from None
    if missing or surplus:
        raise ConfigError(
            f"model.weights: {str(path)!r} does not fit the backbone: {len(missing)} tensors missing "
            f"({_few(missing)}), {len(surplus)} not wanted ({_few(surplus)}); "
            "if only the names differ, set model.match: order"
        )


def check_numbers(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights with which no image could be explained. (Infinity has its uses, in masks of attention.)

    Raises:
        ConfigError: NaN in a tensor; `where` begins its message.
    """
    if broken := [name for name, value in state.items() if value.is_floating_point() and value.isnan().any()]:
        raise ConfigError(f"{where} holds NaN (not a number) in {len(broken)} tensors ({_few(broken)})")


def fingerprint(state: Mapping[str, Tensor], *extra: str) -> str:
    """Hash of named tensors (name, dtype, shape and bytes) and of further text, as 16 hex digits."""
    digest = hashlib.sha256("\0".join(extra).encode())
    for name, value in sorted(state.items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\0".encode())
        # Viewed as bytes, because numpy has no bfloat16.
        digest.update(array.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _renamed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    if len(state) != len(wanted):
        raise ConfigError(
            f"model.weights: {str(path)!r} holds {len(state)} tensors, the backbone {len(wanted)}, "
            "so they cannot be matched by order"
        )
    for (theirs, value), (ours, place) in zip(state.items(), wanted.items(), strict=True):
        if value.shape != place.shape:
            raise ConfigError(
                f"model.weights: matched by order, {theirs} has the shape {tuple(value.shape)} and "
                f"{ours} the shape {tuple(place.shape)}"
            )
    return dict(zip(wanted, state.values(), strict=True))


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
