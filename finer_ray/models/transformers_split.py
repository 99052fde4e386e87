"""Splits of transformers' image models at modules of theirs: a ViT's last norm before attention, a CNN's last stage."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from finer_ray.models.cut import Cut
from finer_ray.models.hooked_split import HookedSplit, Stop
from finer_ray.models.plain_block import PlainBlock, PlainCut
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
FIRST_NORM = r"(layernorm_before|norm1|layer_norm1)"
RESAMPLE = "interpolate_pos_encoding"
# Parameters that are tokens before the patch tokens.
CLASS_TOKENS = ("cls_token", "class_embedding", "distillation_token")
# Models whose last block is plain where its parts are, and which pool the normalised class token.
PLAIN = (
    "DeiTForImageClassification",
    "DeiTModel",
    "Dinov2Model",
    "Dinov2WithRegistersModel",
    "ViTForImageClassification",
    "ViTModel",
)


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
        super().__init__(model, _layer(model, kind), classifiers, _prefix(model), patch=_patch(model, kind))
        self._output = read
        # Position embeddings are resampled only where that is asked for, which some models hand on to a part of them.
        resized = any(RESAMPLE in inspect.signature(module.forward).parameters for module in model.modules())
        self._options = {RESAMPLE: True} if resized else {}

    def forward(self, images: Tensor) -> Tensor:
        """Logits or embedding, as the model gives them."""
        return self._output(self.encoder(pixel_values=images, **self._options))


class TransformersViT(TransformersSplit):
    """A ViT whose last block is plain: cut by the model's own forward, differentiated in closed form."""

    def __init__(
        self, model: Any, kind: str, read: Callable[[Any], Tensor], classifiers: Sequence[nn.Module] = ()
    ) -> None:
        super().__init__(model, kind, read, classifiers)
        model.get_submodule(self.layer).register_forward_hook(_catch)

    # Inference mode and autograd are not for the compiler.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def cut(self, images: Tensor) -> Cut:
        """As `Split.cut`."""
        with torch.inference_mode():
            residual, activation = self._caught(images)
        return PlainCut(self.block((images.shape[2], images.shape[3])), activation, residual)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """As `Split.embed`."""
        cut: Cut = self.cut(images)
        return cut.embedding

    def _caught(self, images: Tensor) -> list[Tensor]:
        """Input and output of the CAM layer, at which the forward pass ends."""
        caught: list[Tensor] = []
        token = CAUGHT.set(caught)
        try:
            with suppress(Stop):
                self(images)
        finally:
            CAUGHT.reset(token)
        return caught

    def block(self, size: tuple[int, int]) -> PlainBlock:
        """The last block."""
        model = self.encoder
        layer = model.get_submodule(self.layer.rpartition(".")[0])
        base = getattr(model, model.base_model_prefix, model)
        parts = [getattr(layer.attention, f"{name}_proj") for name in "qkv"]
        patch = model.config.patch_size
        return PlainBlock(
            heads=layer.attention.num_attention_heads,
            qkv_weight=torch.cat([part.weight for part in parts]),
            qkv_bias=None if parts[0].bias is None else torch.cat([part.bias for part in parts]),
            out=layer.attention.o_proj,
            scale1=_scale(layer, 1),
            norm2=_second_norm(layer),
            fc1=layer.mlp.fc1,
            act=layer.mlp.activation_fn,
            fc2=layer.mlp.fc2,
            scale2=_scale(layer, 2),
            norm=base.layernorm,
            pool="token",
            prefix=self.prefix,
            shape=(size[0] // patch, size[1] // patch),
            neck=lambda pooled: pooled,
        )


# What a hook is to keep: input and output of the CAM layer. Of each thread, so that threads may share a model.
CAUGHT: ContextVar[list[Tensor] | None] = ContextVar("caught", default=None)


def _catch(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
    """The hook: keep, and end the forward pass, where that is asked for."""
    caught = CAUGHT.get()
    if caught is not None:
        caught += [given[0], output]
        raise Stop


def split_transformers(
    model: Any, kind: str, read: Callable[[Any], Tensor], classifiers: Sequence[nn.Module] = ()
) -> TransformersSplit:
    """Cut a model of transformers; arguments and errors as of `TransformersSplit`."""
    plain = type(model).__name__ in PLAIN and _is_plain(model.get_submodule(_layer(model, kind).rpartition(".")[0]))
    return (TransformersViT if plain else TransformersSplit)(model, kind, read, classifiers)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a block has the parts that `TransformersViT.block` takes, and no others (gated MLPs)."""
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
    found = dict(layer.named_modules())
    linear = {name for name, module in found.items() if isinstance(module, nn.Linear)}
    return linear == {*names} and isinstance(_second_norm(layer), nn.LayerNorm)


def _second_norm(layer: Any) -> Any:
    """A block's norm before its MLP."""
    return getattr(layer, "layernorm_after", getattr(layer, "norm2", None))


def _scale(layer: Any, number: int) -> Tensor | None:
    """(D,) layer scale of a block's first or second branch, where it has one."""
    module = getattr(layer, f"layer_scale{number}", None)
    return None if module is None else module.lambda1


def _layer(model: nn.Module, kind: str) -> str:
    """The name of the CAM layer."""
    pattern = re.compile(rf"(.*\.)?{LAYERS.get(kind, FIRST_NORM)}")
    names: list[str] = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    if not names:
        raise Unsupported(f"a model of type {kind!r}")
    return names[-1]


def _patch(model: Any, kind: str) -> tuple[int, int] | None:
    """A ViT's patch; None of the others."""
    patch = None if kind in LAYERS else getattr(model.config, "patch_size", None)
    return (patch, patch) if isinstance(patch, int) else None


def _prefix(model: nn.Module) -> int:
    """How many tokens come before the patch tokens."""
    tokens = {name.rpartition(".")[2]: value for name, value in model.named_parameters()}
    registers = tokens["register_tokens"].shape[1] if "register_tokens" in tokens else 0
    return sum(name in tokens for name in CLASS_TOKENS) + int(registers)
