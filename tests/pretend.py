"""A device pretended on the CPU, under CUDA's rules: its tensors do not mix with the CPU's, autocast chooses formats as
on CUDA, and what Python would wait for is listed. Values are the real ones; autograd runs on a thread of the device.

Importing this is for processes of their own: it registers the device with torch, for good.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
WAITS: list[str] = []


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
    """A tensor on the device, whose `values` are on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "There":
        same = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.shape, device=DEVICE, **same
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Runs those operations, too, that make tensors from nothing."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors of Python's numbers are made out of sight of dispatch modes."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.new_tensor and isinstance(args[0], There):
            function, args, kwargs = torch.tensor, args[1:], {"dtype": args[0].dtype, "device": DEVICE} | kwargs
        if function in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            WAITS.append("numbers copied there")
            return function(*args, **kwargs | {"device": None}).to(DEVICE, non_blocking=True)
        return function(*args, **kwargs)


@contextmanager
def pretend() -> Iterator[list[str]]:
    """Within this context the device can be used; given is the list of what Python has waited for."""
    WAITS.clear()
    with _Literals(), _Operations():
        yield WAITS


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _here(value: Any) -> Any:
    if isinstance(value, torch.device) and _is_there(value):
        return torch.device("cpu")
    return value.values if isinstance(value, There) else value


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    # Else views of the device's tensors would be inference tensors here, and none there.
    with torch.inference_mode(False), torch.no_grad():
        given, spec = pytree.tree_flatten((args, kwargs))
        any_there = any(isinstance(value, There) for value in given)
        if not any_there and not _is_there(kwargs.get("device")):
            return function(*args, **kwargs)
        name = function._schema.name
        _check(name, [value for value in given if isinstance(value, torch.Tensor) and not isinstance(value, There)])
        if name in COPYING and _blocks(name, args, kwargs):
            WAITS.append(f"{name}, blocking")
        arguments, options = pytree.tree_unflatten([_here(value) for value in given], spec)
        options.pop("pin_memory", None)
        found = function(*arguments, **options)
        if name == "aten::_to_copy" and kwargs.get("device") == torch.device("cpu"):
            return found
        if name == "aten::copy_" and not isinstance(args[0], There):
            return args[0]
        found = pytree.tree_map_only(torch.Tensor, There, found)
        return return_and_correct_aliasing(function, args, kwargs, found) if any_there else found


def _check(name: str, strangers: list[torch.Tensor]) -> None:
    """As CUDA does: refuse the CPU's tensors beside the device's, save for single numbers; and note what waits."""
    if strangers and name in INDEXING:
        WAITS.append("an index copied there")
    elif name not in COPYING and any(value.ndim for value in strangers):
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on the CPU, {[tuple(value.shape) for value in strangers]}")
    if name in WAITING:
        WAITS.append(name)


def _blocks(name: str, args: Any, options: dict[str, Any]) -> bool:
    """Whether a copy goes from one device to the other, and is waited for."""
    if name == "aten::copy_":
        across = isinstance(args[0], There) != isinstance(args[1], There)
        return across and not (options.get("non_blocking") or args[2:3] == (True,))
    target = options.get("device")
    across = target is not None and _is_there(target) != isinstance(args[0], There)
    return across and not options.get("non_blocking")


# Which format operations run in, from those of their tensors and autocast's own: CUDA's rules, as torch's header lists
# them. They are not those of the CPU.
HEADER = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()
FORMATS = {torch.float32, torch.float16, torch.bfloat16}
RULES: dict[str, Callable[[set[torch.dtype], torch.dtype], torch.dtype]] = {
    "AT_FORALL_LOWER_PRECISION_FP": lambda formats, half: half,
    "AT_FORALL_FP32": lambda formats, half: torch.float32,
    "AT_FORALL_FP32_SET_OPT_DTYPE": lambda formats, half: torch.float32,
    "AT_FORALL_PROMOTE": lambda formats, half: torch.float32 if torch.float32 in formats else half,
}


def _operations(macro: str) -> Iterator[Any]:
    """The operations that a macro of the header lists, as name or name and overload."""
    listed = re.search(rf"#define {macro}\(_\)(.*?)\n\n", HEADER, re.DOTALL)
    assert listed, macro
    for name, overload in re.findall(r"_\((\w+)(?:, (\w+))?\)", listed[1]):
        if operation := getattr(getattr(torch.ops.aten, name, None), overload or "default", None):
            yield operation


def _autocast(operation: Any, rule: Callable[[set[torch.dtype], torch.dtype], torch.dtype]) -> Callable[..., Any]:
    def may_be_cast(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.device == DEVICE and value.dtype in FORMATS

    def run(*args: Any, **options: Any) -> Any:
        formats = {value.dtype for value in pytree.tree_leaves((args, options)) if may_be_cast(value)}
        dtype = rule(formats, torch.get_autocast_dtype(DEVICE.type))
        with torch.autocast(DEVICE.type, enabled=False):
            args, options = pytree.tree_map(lambda x: x.to(dtype) if may_be_cast(x) else x, (args, options))
            return operation(*args, **options)

    return run


# Kept, because they take back what they have registered when they go.
LIBRARIES = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]
LIBRARIES[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for macro, rule in RULES.items():
    for operation in _operations(macro):
        LIBRARIES[1].impl(operation, _autocast(operation, rule), "AutocastPrivateUse1")
