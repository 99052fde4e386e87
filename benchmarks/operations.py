"""Operations of matmuls, convolutions and attention, counted as torch itself counts them."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Counts floating-point operations (a multiply-add is two) while it is entered, backward ones included.

    torch's own FlopCounterMode hooks modules, which autograd.grad does not allow.

    Attributes:
        count: so far.
    """

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it; under inference mode composite ones arrive whole and are taken apart."""
        kwargs = kwargs or {}
        counted = flop_registry.get(function._overloadpacket)
        if counted is None:
            with self:
                parts = function.decompose(*args, **kwargs)
            return function(*args, **kwargs) if parts is NotImplemented else parts
        result = function(*args, **kwargs)
        self.count += counted(*args, **kwargs, out_val=result)
        return result
