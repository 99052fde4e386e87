"""Plugins: methods, metrics, formats, libraries and data sets that are defined outside of this package.

`FINER_RAY_PLUGINS=my_module,another` names importable modules; what they define at their top is added to the tables. A
process of a cluster needs the variable and the modules, too (`ray job submit --runtime-env-json '{"working_dir": ".",
"env_vars": {"FINER_RAY_PLUGINS": "my_module"}}'`).
"""

import importlib
import os
from collections.abc import Iterable
from typing import Protocol, TypeVar

from finer_ray.errors import ConfigError

VARIABLE = "FINER_RAY_PLUGINS"


class Named(Protocol):
    """What a table holds."""

    @property
    def name(self) -> str:
        """By which a config asks for it."""


T = TypeVar("T", bound=Named)


def table(kind: type[T], own: Iterable[T]) -> dict[str, T]:
    """All objects of a kind by name: this package's, and those of the plugins.

    Args:
        kind: their class.
        own: this package's, in the order in which they are listed.

    Raises:
        ConfigError: a plugin cannot be imported, or has a name that is taken.
    """
    found = {item.name: item for item in own}
    for plugin in filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))):
        for item in _defined(plugin, kind):
            if found.setdefault(item.name, item) is not item:
                raise ConfigError(f"{VARIABLE}: {plugin} defines {item.name!r}, and there is one of that name already")
    return found


def _defined(plugin: str, kind: type[T]) -> list[T]:
    """What a module defines of a kind."""
    try:
        module = importlib.import_module(plugin)
    except Exception as error:
        raise ConfigError(f"{VARIABLE}: {plugin} cannot be imported: {type(error).__name__}: {error}") from error
    return [value for value in vars(module).values() if isinstance(value, kind)]
