"""Preparing a classifier for a device: number formats and memory layouts. What it computes stays the same."""

from collections.abc import Callable
from threading import Lock
from typing import Literal

import torch
from torch import Tensor, nn

from finer_ray.models.classifier import Classifier

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(classifier: Classifier, device: torch.device, precision: str) -> Classifier:
    """Move a classifier to a device, in eval mode, in the layout in which it is fastest there.

    - Matrix products and convolutions in float32 are IEEE float32 on a GPU, too, unless `precision` is tf32. (torch
      itself lets cuDNN's convolutions use TF32, with 10 bits of mantissa.) This is a setting of the whole process.
    - CNNs have their channels last on a GPU, as its tensor cores read them.
    - For bf16 and fp16, weights of linear layers and convolutions are kept in half precision. Autocast would make them
      so for each batch anew: 0.5 GB of traffic for a ViT-B.

    Args:
        classifier: is changed itself.
        device: cpu or cuda.
        precision: fp32, tf32, bf16 or fp16, as `compute.precision`.
    """
    classifier.to(device).eval()
    if device.type == "cuda":
        # By these two names, because torch's compiler reads them, and refuses where the newer ones were set.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        if classifier.split.convolutional:
            classifier.split.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision in HALVES:
        _halve(classifier, HALVES[precision])
    return classifier


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context that a prepared classifier runs in."""
    return torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES)


Trunk = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def compiled(trunk: Trunk, mode: Literal[True] | str) -> Trunk:
    """A split's trunk, compiled for each shape that it meets; where a graph is wanted, as it was.

    Threads take turns. CUDA graphs must be captured and run by one thread alone.

    Args:
        trunk: images (B, 3, H, W) to activation and residual.
        mode: True, or a mode of `torch.compile` that uses CUDA graphs.
    """
    graphs = isinstance(mode, str)
    fast = torch.compile(trunk, dynamic=False, mode=mode if isinstance(mode, str) else None)
    turn = Lock()

    def run(images: Tensor) -> tuple[Tensor, Tensor | None]:
        if torch.is_grad_enabled():
            return trunk(images)
        # Always in the same mode: for inference mode and for none of it, all would be compiled twice.
        with turn, torch.inference_mode(False), torch.no_grad():
            if not graphs:
                return fast(images)
            # A graph's next run writes over its results, which masked images would do while they are still needed.
            torch.compiler.cudagraph_mark_step_begin()
            activation, residual = fast(images)
            return activation.clone(), None if residual is None else residual.clone()

    return run


def _halve(classifier: Classifier, dtype: torch.dtype) -> None:
    block = classifier.split.block(classifier.transform.size)
    # The class token's attention is computed in float32 from the last block's own weights, see `OneQuery`.
    kept = [] if block is None else [block.qkv_weight, block.qkv_bias]
    for layer in classifier.split.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not any(layer.weight is weight for weight in kept):
            layer.to(dtype)
