"""Loading a config: YAML from a file, overridden by `a.b=c`, checked against its schema."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from finer_ray.config.messages import faults, shown
from finer_ray.config.schema import Config
from finer_ray.config.section import RenamedKey, Section
from finer_ray.config.yaml_text import MAX_YAML_BYTES, read_yaml
from finer_ray.errors import ConfigError

S = TypeVar("S", bound=Section)
NO_WORDS: Mapping[str, str] = {}


def load_config(path: str | Path, overrides: Sequence[str] = (), words: Mapping[str, str] = NO_WORDS) -> Config:
    """The config of an export: see `load_section`."""
    return load_section(Config, path, overrides, words)


def parse_config(tree: dict[str, Any]) -> Config:
    """The config of an export, given as plain dicts and lists. Raises ConfigError as `load_section` does."""
    return parse_section(Config, tree)


def load_section(
    kind: type[S], path: str | Path, overrides: Sequence[str] = (), words: Mapping[str, str] = NO_WORDS
) -> S:
    """Read a YAML config of some kind and apply `a.b=c` overrides, whose values are YAML too.

    Args:
        kind: the class of the whole file.
        words: what stands for `{name}` in the file's texts, by name.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or a value out of range; every fault is listed
            with its config path and, where a name was mistyped, the nearest valid ones.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_YAML_BYTES + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config {str(path)!r}: {error}") from error
    try:
        tree = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML that a config can be: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must be a mapping with the keys {', '.join(kind.model_fields)}")
    for override in overrides:
        _override(tree, override)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", RenamedKey)
        section = _validated(kind, _filled(tree, words) if words else tree)
    for note in dict.fromkeys(str(warning.message) for warning in found):
        print(f"note: {path}: {note}", file=sys.stderr)
    return section


def parse_section(kind: type[S], tree: dict[str, Any]) -> S:
    """Check a config given as plain dicts and lists. Raises ConfigError as `load_section` does."""
    with warnings.catch_warnings():
        # Manifests keep the names that keys had.
        warnings.simplefilter("ignore", RenamedKey)
        return _validated(kind, tree)


def _validated(kind: type[S], tree: dict[str, Any]) -> S:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("the config is wrong:\n" + "\n".join(f"  {fault}" for fault in faults(kind, error))) from None


def _filled(tree: Any, words: Mapping[str, str]) -> Any:
    """The same tree with each `{name}` replaced; other braces are ranges of shards, and stay."""
    if isinstance(tree, dict):
        return {key: _filled(value, words) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_filled(value, words) for value in tree]
    if isinstance(tree, str):
        for name, word in words.items():
            tree = tree.replace(f"{{{name}}}", word)
    return tree


def _override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {shown(override)} must have the form a.b=c")
    path = shown(path).strip("'")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {path}: the value is not YAML: {error}") from None
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {path}: {key} is a value, not a section")
        node = child
    node[keys[-1]] = value
