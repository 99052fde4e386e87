"""Fitting batches into memory: how many images at a time, and which errors mean that there were too many."""

import math
from collections.abc import Callable

import torch

from finer_ray.saliency.budget import MASKED_MEMORY

# On CPUs larger batches are no faster.
CPU_BATCH = 32
# Of the images of a batch there, where they have sizes of their own and may be large: as many as usual of 224 x 224.
CPU_PIXELS = CPU_BATCH * 224**2
# Nor are they on a GPU beyond this; and the rows of a unit are a small multiple of it.
MAX_BATCH = 256
# Batches whose memory is measured.
TRIALS = (8, 16)
# Of a GPU's memory, for masked images: one part in so many.
MASKED_SHARE = 8
NO_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # cuBLAS cannot make its handle: there is no memory left for it.
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
LOST = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_EXECUTION_FAILED")


def largest_batch(peak: Callable[[int], int], budget: float, most: int) -> int:
    """The largest power of two that fits.

    Memory is taken to grow with the batch as it does between the two trials; what has a bound of its own (masked
    images, groups of cotangents) grows less, which errs on the safe side.

    Args:
        peak: the largest memory, bytes, while a batch of so many images is explained.
        budget: bytes.
        most: images.

    Returns:
        1 to `most`.
    """
    few, more = TRIALS
    try:
        low, high = peak(few), peak(more)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return 1
    each = max(1.0, (high - low) / (more - few))
    fitting = min(most, math.floor((budget - low) / each) + few)
    return 1 if fitting < 1 else 2 ** (fitting.bit_length() - 1)


def gpu_budget(device: torch.device, fraction: float, share: float, calls: int) -> float:
    """Bytes that a call of an actor may take, the model included, which the actor's calls share.

    Args:
        device: a GPU, with the model on it.
        fraction: of its memory that all actors on it may take.
        share: of the GPU, that this actor has; more than 1 counts as 1.
        calls: that an actor works on at a time.
    """
    whole = torch.cuda.get_device_properties(device).total_memory * fraction * min(1.0, share)
    model = torch.cuda.memory_allocated(device)
    return model + (whole - model) / calls


def gpu_peak(device: torch.device, explain: Callable[[int], object]) -> Callable[[int], int]:
    """For `largest_batch`: what explaining a batch takes on a GPU, measured."""

    def peak(count: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        explain(count)
        return torch.cuda.max_memory_allocated(device)

    return peak


def masked_memory(wanted: int | None, device: torch.device, share: float, calls: int) -> int:
    """Bytes that the masked images of a call may take at a time: those wanted, else what suits the device."""
    if wanted is not None or device.type != "cuda":
        return wanted or MASKED_MEMORY
    whole = torch.cuda.get_device_properties(device).total_memory
    return max(MASKED_MEMORY, int(whole * min(1.0, share) / MASKED_SHARE / calls))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might do."""
    return isinstance(error, torch.OutOfMemoryError) or _says(error, NO_MEMORY)


def is_lost(error: BaseException) -> bool:
    """Whether a process can do nothing more on its GPU: after such an error every call there fails."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or _says(error, LOST)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
