"""Modules that are imported when something of them is first used.

The config, and all that only reads an export, know every CAM method and metric; to import torch takes seconds.
"""

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a module.

    Args:
        name: of the module, such as `torch.nn.functional`.

    >>> Lazy("math").sqrt(4.0)
    2.0
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)

    def __reduce__(self) -> tuple[type["Lazy"], tuple[str]]:
        return Lazy, (self._name,)
