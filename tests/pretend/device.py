"""A device that is not the CPU, for machines that have none: a tensor there computes on the CPU, with the real values,
but does not mix with tensors of the CPU, and tells when Python would wait for it. Autograd runs on a thread of the
device, as on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

# Operations whose result Python needs to go on.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}
COPYING = {"aten::_to_copy", "aten::copy_"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}


class _Module(_DummyBackendModule):
    """What torch asks of a device's module; of which torch.autocast the formats."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


# Autograd takes the device for this process's accelerator only if it has a name of its own.
_setup_privateuseone_for_python_backend("pretend", _Module())
DEVICE = torch.device("pretend:0")
# Else a module's weights would keep their values here where it is moved or cast.
torch.__future__.set_overwrite_module_params_on_conversion(True)


class There(torch.Tensor):
    """A tensor on the device.

    Attributes:
        values: on the CPU.
    """

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "There":
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, [])


class _Operations(TorchDispatchMode):
    """Runs all operations; those that make tensors from nothing, too."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, self.waits)


class _Literals(TorchFunctionMode):
    """Tensors of Python's numbers are made out of sight of dispatch modes."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.new_tensor and isinstance(args[0], There):
            function, args, kwargs = torch.tensor, args[1:], {"dtype": args[0].dtype, "device": DEVICE} | kwargs
        if function in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            self.waits.append("numbers copied there")
            return function(*args, **kwargs | {"device": None}).to(DEVICE, non_blocking=True)
        return function(*args, **kwargs)


@contextmanager
def pretend() -> Iterator[list[str]]:
    """Within this context the device can be used; given is the list of what Python has waited for."""
    waits: list[str] = []
    with _Literals(waits), _Operations(waits):
        yield waits


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _run(function: Any, args: Any, kwargs: Any, waits: list[str]) -> Any:
    # Else views of the device's tensors would be inference tensors here, and none there.
    with torch.inference_mode(False), torch.no_grad():
        given, spec = pytree.tree_flatten((args, kwargs))
        any_there = any(isinstance(value, There) for value in given)
        if not any_there and not _is_there(kwargs.get("device")):
            return function(*args, **kwargs)
        name = function._schema.name
        if any_there:
            _check(name, given, waits)
        if name in COPYING and _blocks(name, args, kwargs):
            waits.append(f"{name}, blocking")
        here = [_here(value) for value in given]
        arguments, options = pytree.tree_unflatten(here, spec)
        options.pop("pin_memory", None)
        found = function(*arguments, **options)
        if name == "aten::_to_copy" and kwargs.get("device") == torch.device("cpu"):
            return found
        if name == "aten::copy_" and not isinstance(args[0], There):
            return args[0]
        found = pytree.tree_map_only(torch.Tensor, There, found)
        return return_and_correct_aliasing(function, args, kwargs, found) if any_there else found


def _here(value: Any) -> Any:
    if isinstance(value, torch.device) and _is_there(value):
        return torch.device("cpu")
    return value.values if isinstance(value, There) else value


def _check(name: str, given: list[Any], waits: list[str]) -> None:
    """As CUDA does: refuse the CPU's tensors beside the device's, save for single numbers; and note what waits."""
    strangers = [value for value in given if isinstance(value, torch.Tensor) and not isinstance(value, There)]
    if strangers and name in INDEXING:
        waits.append("an index copied there")
    elif name not in COPYING and any(value.ndim for value in strangers):
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on the CPU, {[tuple(value.shape) for value in strangers]}")
    if name in WAITING:
        waits.append(name)


def _blocks(name: str, args: Any, options: dict[str, Any]) -> bool:
    """Whether a copy goes from one device to the other, and is waited for."""
    if name == "aten::copy_":
        across = isinstance(args[0], There) != isinstance(args[1], There)
        return across and not (options.get("non_blocking") or args[2:3] == (True,))
    target = options.get("device")
    across = target is not None and _is_there(target) != isinstance(args[0], There)
    return across and not options.get("non_blocking")
