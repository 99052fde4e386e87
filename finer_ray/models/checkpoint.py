"""Checkpoints: weights from files, read without ever unpickling code."""

import argparse
import hashlib
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from finer_ray.config.messages import nearest
from finer_ray.errors import ConfigError

PACKAGE = "package:"
# What torch.compile puts into the names of the modules that it wraps, at any depth.
COMPILED = "_orig_mod."
EMA = re.compile(r"(^|[._/])ema", re.IGNORECASE)
# Names of tensors that a training keeps beside the model's.
ASIDE = re.compile(r"(^|[._])(loss|criterion|metric|optim|ema)", re.IGNORECASE)
# Levels of a checkpoint's dicts that are searched for its weights, and characters of a name that a message shows.
MAX_DEPTH, MAX_NAME = 4, 100
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
        ConfigError: there is no such package, or the place is outside of it.
    """
    if not text.startswith(PACKAGE):
        return None
    package, _, inside = text.removeprefix(PACKAGE).partition("/")
    if inside.startswith("/") or ".." in inside.split("/"):
        raise ConfigError(f"{key}: {text!r} leaves the package; a place in it has no '..' and no '/' at its beginning")
    try:
        return Path(str(resources.files(package).joinpath(inside)))
    except ModuleNotFoundError:
        raise ConfigError(
            f"{key}: no Python package {package!r} is installed (`make install` brings the demo's)"
        ) from None
    except (TypeError, ValueError, AttributeError):
        # What importlib makes of single modules, of no name, of relative names and of `__main__`.
        raise ConfigError(f"{key}: {package!r} is not a package; write package:NAME/FILE") from None


def read_checkpoint(path: Path, key: str = "model.weights", part: str = "backbone") -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a checkpoint that torch loads with weights_only, by name.

    Of a checkpoint of a training these are the weights, wherever in it they stand: under `state_dict` or `model`, else
    in the one dict of named tensors that there is. Averaged weights (EMA) are taken only where there are no others. A
    data-parallel or compiled model's `module.` and `_orig_mod.` are left out of the names. A tensor alone is called
    `weight`. All of them are on the CPU, wherever they were saved.

    Args:
        path: of the file.
        key: of the config that names it, for messages.
        part: of a model that is wanted, for messages.

    Raises:
        ConfigError: unreadable, it holds code, or no tensors, or several dicts of them.
    """
    where = f"{key}: {str(path)!r}"
    if _is_torchscript(path):
        raise ConfigError(
            f"{where} is a TorchScript archive, which is code: load it elsewhere, and save its state_dict with "
            "safetensors"
        )
    try:
        tree = _read(path)
    except pickle.UnpicklingError as error:
        # torch's own message says how to run the code nevertheless.
        pickled = re.search(r"GLOBAL (\S{1,100})", str(error))
        why = f"it holds {pickled[1]}, which may be code" if pickled else "no tensors alone"
        raise ConfigError(
            f"{where} is no checkpoint that torch loads with weights_only=True ({why}); save its state_dict with "
            "safetensors"
        ) from None
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ConfigError(
            f"{where} is neither safetensors nor a checkpoint that torch loads with weights_only=True ({first}); "
            "save its state_dict with safetensors"
        ) from None
    tree = {"weight": tree} if isinstance(tree, Tensor) else tree
    found = _state_dicts(tree) if isinstance(tree, Mapping) else {}
    for key in ("state_dict", "model"):
        found = {place: state for place, state in found.items() if place.split("/")[0] == key} or found
    if len(found) > 1:
        found = {place: state for place, state in found.items() if not EMA.search(place)} or found
    if len(found) != 1:
        what = f"holds several dicts of tensors ({_few([*found])})" if found else "holds no tensors by name"
        raise ConfigError(f"{where} {what}: save the {part}'s state_dict alone, with safetensors")
    (state,) = found.values()
    return {name.replace(COMPILED, ""): value for name, value in timm.models.clean_state_dict(dict(state)).items()}


def unwrapped(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """A checkpoint without the prefix that a training's module around the backbone gave its names (`model.`, `net.`).

    It is taken away only where all wanted names are there without it, and all else is of a loss or the like.

    Args:
        state: tensors by name.
        wanted: names of the backbone's own tensors.
    """
    plain = dict(state)
    if not wanted or all(name in plain for name in wanted):
        return plain
    longest = max(wanted, key=len)
    prefixes = [name.removesuffix(longest) for name in plain if name.endswith(f".{longest}")]
    fitting = [prefix for prefix in prefixes if all(prefix + name in plain for name in wanted)]
    fitting = [prefix for prefix in fitting if not EMA.search(prefix)] or fitting
    if len(fitting) != 1:
        return plain
    prefix = fitting[0]
    others = [name for name in plain if not name.startswith(prefix)]
    if not all(ASIDE.search(name) for name in others):
        return plain
    return {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}


def load_into(module: nn.Module, state: Mapping[str, Tensor], match: Literal["name", "order"], path: Path) -> None:
    """Load a checkpoint, every tensor of the module and nothing else.

    Args:
        module: gets the weights.
        state: tensors by name, in the file's order.
        match: `name`, or `order` for a checkpoint whose names differ but whose order and shapes do not.
        path: of the file, for messages.

    Raises:
        ConfigError: tensors are missing, left over, of another shape, quantised, or hold NaN.
    """
    where, wanted = f"model.weights: {str(path)!r}", module.state_dict()
    check_numbers(state, where)
    if match == "order":
        state = _renamed(state, wanted, path)
    check_kinds(state, wanted, where)
    if differing := name_faults(state, wanted):
        raise ConfigError(
            f"{where} does not fit the backbone: {differing}; if only the names differ, set model.match: order"
        )
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ConfigError(f"{where} does not fit the backbone: {str(error)[:1000]}") from None


def name_faults(state: Mapping[str, Tensor], wanted: Collection[str]) -> str:
    """In what names a checkpoint differs from a backbone, in words; '' where it does not.

    Args:
        state: tensors by name.
        wanted: names of the backbone's own tensors.
    """
    missing, surplus = [name for name in wanted if name not in state], [name for name in state if name not in wanted]
    if not missing and not surplus:
        return ""
    text = f"{len(missing)} tensors missing ({_few(missing)}), {len(surplus)} not wanted ({_few(surplus)})"
    first, count = Counter(name.partition(".")[0] for name in state).most_common(1)[0] if state else ("", 0)
    if 2 * count > len(state) and not any(name.startswith(f"{first}.") for name in wanted):
        text += f"; most of its names begin with {f'{first[:MAX_NAME]}.'!r}: save the backbone's state_dict alone"
    return text


def check_kinds(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    """Refuse quantised weights: torch would take their integers for the values.

    Args:
        state: tensors by name.
        wanted: the backbone's own tensors by name.
        where: beginning of the message.

    Raises:
        ConfigError: integers for floating-point tensors, or 8-bit integers under names that the backbone lacks.
    """
    whole = [
        name
        for name, value in state.items()
        if not value.is_floating_point()
        and (wanted[name].is_floating_point() if name in wanted else value.dtype in (torch.int8, torch.uint8))
    ]
    if whole:
        raise ConfigError(
            f"{where} holds integers ({state[whole[0]].dtype}) in {len(whole)} tensors of floating-point weights "
            f"({_few(whole)}): these are quantised; dequantise them before they are saved"
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


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever it is called: the length of a header, and a header of JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    """As torch itself tells them from checkpoints."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return safetensors.torch.load_file(path)
    # timm's checkpoints of trainings hold their arguments.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _state_dicts(tree: Mapping[Any, Any], place: str = "", depth: int = MAX_DEPTH) -> dict[str, dict[str, Tensor]]:
    """Dicts of named tensors inside a checkpoint, by place (`a/b`). An optimiser's have numbers for names."""
    tensors = {name: value for name, value in tree.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if any(value.ndim for value in tensors.values()):
        return {place: tensors}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tree.items():
        if depth and isinstance(key, str) and isinstance(value, Mapping):
            found |= _state_dicts(value, f"{place}/{key}" if place else key, depth - 1)
    return found


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
    shown = [name[:MAX_NAME] for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "") if names else "none"
