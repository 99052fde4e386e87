"""Splits of transformers' image models at modules of theirs: a ViT's last norm before attention, a CNN's last stage."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.split import Unsupported

# Modules of which the last is the CAM layer, by type of model; of all others the first norm of the last block.
LAYERS: Mapping[str, str] = {
    "convnext": r"encoder\.stages\.\d+",
    "convnextv2": r"encoder\.stages\.\d+",
    "efficientnet": r"encoder\.top_activation",
    "mobilenet_v2": r"conv_1x1",
    "regnet": r"encoder\.stages\.\d+",
    "resnet": r"encoder\.stages\.\d+",
    "swin": r"layernorm",
    "swinv2": r"layernorm",
}
RESAMPLE = "interpolate_pos_encoding"
FIRST_NORM = r"(layernorm_before|norm1|layer_norm1)"
# Parameters that are tokens before the patch tokens.
CLASS_TOKENS = ("cls_token", "class_embedding", "distillation_token")


class TransformersSplit(HookedSplit):
    """A model of transformers, whose output is not a tensor but has one.

    Args:
        model: of transformers.
        kind: its `model_type`.
        read: from its output to logits (B, C), or to the embedding (B, E).
        classifiers: the linear layers that make the logits; none where `read` gives the embedding.

    Raises:
        Unsupported: no such layer.
    """

    def __init__(
        self, model: Any, kind: str, read: Callable[[Any], Tensor], classifiers: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__(model, _layer(model, kind), classifiers, _prefix(model))
        self._output = read
        # Position embeddings are resampled only where that is asked for, which some models hand on to a part of them.
        resized = any(RESAMPLE in inspect.signature(module.forward).parameters for module in model.modules())
        self._options = {RESAMPLE: True} if resized else {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits or embedding, as the model gives them."""
        return self._output(self.encoder(pixel_values=images, **self._options))


def _layer(model: nn.Module, kind: str) -> str:
    """The name of the CAM layer."""
    pattern = re.compile(rf"(.*\.)?{LAYERS.get(kind, FIRST_NORM)}")
    names = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    if not names:
        raise Unsupported(f"a model of type {kind!r}")
    return names[-1]


def _prefix(model: nn.Module) -> int:
    """How many tokens come before the patch tokens."""
    tokens = {name.rpartition(".")[2]: value for name, value in model.named_parameters()}
    registers = tokens["register_tokens"].shape[1] if "register_tokens" in tokens else 0
    return sum(name in tokens for name in CLASS_TOKENS) + int(registers)
