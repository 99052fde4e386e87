"""Transfers between host and device: pixels go there while it works on the batch before, and results come back.

On a GPU nothing here waits for what it has been given to do: pixels are gathered into pinned memory and copied on a
stream of their own, results are copied behind the kernels that make them. On a CPU there is nothing to do.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = dict[str, NDArray[Any]]


class HostToDevice:
    """Copies from host memory to a device.

    Attributes:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, values: NDArray[Any], rows: NDArray[np.intp]) -> Tensor:
        """Some rows of an array (n, ...), as a tensor on the device, (len(rows), ...)."""
        gathered = torch.empty(
            (len(rows), *values.shape[1:]),
            dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype,
            pin_memory=self.pins,
        )
        # By numpy straight into pinned memory; another mode than `clip` would take a buffer between.
        np.take(values, rows, axis=0, out=gathered.numpy(), mode="clip")
        if self._stream is None:
            return gathered.to(self.device)
        with torch.cuda.stream(self._stream):
            sent = gathered.to(self.device, non_blocking=True)
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._stream)
        # Else its memory might be given to the next batch while this one's kernels still wait for their turn.
        sent.record_stream(here)
        return sent

    @property
    def pins(self) -> bool:
        """Whether host memory is pinned, which copies to a GPU need to be asynchronous."""
        return self._stream is not None


def fetch(tensors: Mapping[str, Tensor]) -> Callable[[], Arrays]:
    """Begin to copy tensors to the host. What is returned waits for them: call it when they are needed."""
    # To a GPU's tensors, non_blocking means a copy into pinned memory behind the kernels queued so far.
    copies = {name: values.to("cpu", non_blocking=True) for name, values in tensors.items()}
    device = next((values.device for values in tensors.values() if values.is_cuda), None)
    done = None if device is None else torch.cuda.current_stream(device).record_event()

    def arrive() -> Arrays:
        if done is not None:
            done.synchronize()
        return {name: values.numpy() for name, values in copies.items()}

    return arrive
