"""CUDA's rules of autocast, on the pretended device: which operations run in half precision, and which in float32. They
are read from torch's own header, and are not those of the CPU. Left out is `norm`, which no model here calls.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tests.pretend.device import DEVICE

KEY = "AutocastPrivateUse1"
HEADER = (Path(torch.__file__).parent / "include/ATen/autocast_mode.h").read_text()


def operations(macro: str) -> Iterator[Any]:
    """The operations that a macro of the header lists, as name or name and overload."""
    listed = re.search(rf"#define {macro}\(_\)(.*?)\n\n", HEADER, re.DOTALL)
    assert listed, macro
    for name, overload in re.findall(r"_\((\w+)(?:, (\w+))?\)", listed[1]):
        operation = getattr(getattr(torch.ops.aten, name, None), overload or "default", None)
        if operation is not None:
            yield operation


def _may_be_cast(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device == DEVICE and value.dtype in FORMATS


def _to(dtype: torch.dtype, given: Any) -> Any:
    return pytree.tree_map(lambda value: value.to(dtype) if _may_be_cast(value) else value, given)


def _lower(operation: Any, half: torch.dtype, args: Any, options: Any) -> Any:
    return _to(half, (args, options))


def _wide(operation: Any, half: torch.dtype, args: Any, options: Any) -> Any:
    return _to(torch.float32, (args, options))


def _wide_result(operation: Any, half: torch.dtype, args: Any, options: Any) -> Any:
    """Where the caller does not say in which format the result is to be."""
    place = [argument.name for argument in operation._schema.arguments].index("dtype")
    said = options.get("dtype") or (args[place] if len(args) > place else None)
    return args, options | ({"dtype": torch.float32} if said is None and _may_be_cast(args[0]) else {})


def _widest(operation: Any, half: torch.dtype, args: Any, options: Any) -> Any:
    formats = {value.dtype for value in pytree.tree_leaves((args, options)) if _may_be_cast(value)}
    return _to(torch.float32 if torch.float32 in formats else half, (args, options))


def _kernel(operation: Any, rule: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        half = torch.get_autocast_dtype(DEVICE.type)
        with torch.autocast(DEVICE.type, enabled=False):
            args, options = rule(operation, half, args, options)
            return operation(*args, **options)

    return run


FORMATS = {torch.float32, torch.float16, torch.bfloat16}
RULES = {
    "AT_FORALL_LOWER_PRECISION_FP": _lower,
    "AT_FORALL_FP32": _wide,
    "AT_FORALL_FP32_SET_OPT_DTYPE": _wide_result,
    "AT_FORALL_PROMOTE": _widest,
}
# Kept, because they take back what they have registered when they go.
LIBRARIES = [torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")]
LIBRARIES[0].fallback(torch.library.fallthrough_kernel, KEY)
for macro, rule in RULES.items():
    for operation in operations(macro):
        LIBRARIES[1].impl(operation, _kernel(operation, rule), KEY)
