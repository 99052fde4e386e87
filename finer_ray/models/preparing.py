"""Preparing a classifier for a device: number formats and memory layouts. What it computes stays the same."""

from collections.abc import Callable
from threading import Lock
from typing import Any, Literal

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from finer_ray.models.allocator import keep_freed_memory
from finer_ray.models.classifier import Classifier
from finer_ray.models.split import Split

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def prepare(classifier: Classifier, device: torch.device, precision: str) -> Classifier:
    """Move a classifier to a device, in eval mode, in the layout in which it is fastest there.

    - Matrix products and convolutions in float32 are IEEE float32 on a GPU, too, unless `precision` is tf32. (torch
      itself lets cuDNN's convolutions use TF32, with 10 bits of mantissa.) This is a setting of the whole process.
    - CNNs have their channels last on a GPU, as its tensor cores read them.
    - Memory that is freed is kept for the next layers on a CPU (`keep_freed_memory`): also of the whole process.
    - For bf16 and fp16, weights of the trunk's linear layers and convolutions are kept in half precision. Autocast
      would make them so for each batch anew: 0.5 GB of traffic for a ViT-B.
    - Keys lose their bias for these two. It adds the same to all of a query's scores, which the softmax drops; where it
      is large (DINOv2's), half precision would round the rest of the key away.
    - A ViT's patch embedding stays in float32 on a CPU, where it takes a hundredth of the time: whatever it rounds, all
      blocks carry on.

    Args:
        classifier: is changed itself.
        device: cpu or cuda.
        precision: fp32, tf32, bf16 or fp16, as `compute.precision`.
    """
    classifier.to(device).eval()
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        # By these two names, because torch's compiler reads them, and refuses where the newer ones were set.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        if classifier.split.convolutional:
            classifier.split.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision in HALVES:
        if device.type == "cpu" and not classifier.split.convolutional:
            _keep_patches_whole(classifier.split)
        _drop_key_biases(classifier.split)
        _halve(classifier, HALVES[precision], device)
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


class InFloat32(nn.Module):
    """A layer that autocast leaves alone.

    Args:
        layer: any module of one input, with its weights in float32.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @property
    def weight(self) -> Any:
        """The layer's; transformers asks for its dtype."""
        return self.layer.weight

    def forward(self, values: Tensor) -> Tensor:
        """The layer's output, in float32."""
        with torch.autocast(values.device.type, enabled=False):
            output: Tensor = self.layer(values)
        return output


def _halve(classifier: Classifier, dtype: torch.dtype, device: torch.device) -> None:
    split, block = classifier.split, classifier.split.block(classifier.transform.size)
    layers = _layers_of_trunk(split, torch.zeros((1, 3, *classifier.transform.size), device=device))
    if block is not None and block.pool == "avg":
        layers |= {block.out, block.fc1, block.fc2}
    for layer in layers:
        layer.to(dtype)


@torch.no_grad()
def _layers_of_trunk(split: Split, image: Tensor) -> set[nn.Module]:
    """The linear layers and convolutions that an image goes through before the CAM layer."""
    used: set[nn.Module] = set()

    def note(module: nn.Module, _: object) -> None:
        # torch's own attention reads the weights of its layer, and does not call it.
        used.add(module.out_proj if isinstance(module, nn.MultiheadAttention) else module)

    # Not one of each module's own: in another process than the one that made a split, torch would number them from 0
    # again, and put them in the place of the split's hooks.
    with register_module_forward_pre_hook(note):
        split.trunk(image)
    used &= set(split.modules())
    whole = {module.layer for module in used if isinstance(module, InFloat32)}
    return {module for module in used - whole if isinstance(module, nn.Linear | nn.Conv2d)}


def _drop_key_biases(split: Split) -> None:
    """Of timm's attention; open_clip's keys are also compared with each other (GEM), where a bias counts."""
    for module in split.modules():
        projection: Any = getattr(module, "qkv", None)
        if type(module) is Attention and isinstance(module.k_norm, nn.Identity) and projection.bias is not None:
            query, key, value = projection.bias.chunk(3)
            projection.bias = nn.Parameter(torch.cat([query, torch.zeros_like(key), value]), requires_grad=False)


def _keep_patches_whole(split: Split) -> None:
    """The first layer, which embeds a ViT's patches."""
    layers = [path for path, layer in split.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for path in layers[:1]:
        parent, _, name = path.rpartition(".")
        setattr(split.get_submodule(parent), name, InFloat32(split.get_submodule(path)))
