"""torch, imported when something of it is first used.

The config, and all that only reads an export, know every CAM method and metric; to import torch takes seconds. Modules
that define some take `torch`, `functional` (`torch.nn.functional`) and, for annotations, `Tensor` from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Tensor", "functional", "torch"]


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


if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    torch, functional, Tensor = Lazy("torch"), Lazy("torch.nn.functional"), Any
