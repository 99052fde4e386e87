"""Heads: from embedding to logits."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from finer_ray.errors import ConfigError
from finer_ray.models.checkpoint import MAX_NAME, check_kinds, check_numbers, read_checkpoint

# What a classifier's last layer is called: in a linear probe, and in the checkpoints of the usual libraries.
HEADS = ("weight", "head.weight", "fc.weight", "classifier.weight", "head.fc.weight", "heads.head.weight")
MAX_LISTED = 5


class LinearHead(nn.Module):
    """logits = scale * (e W^T) + bias, with e normalised to unit length where `normalize` is set.

    Attributes:
        weight: (C, E) float.
        bias: (C,) float.
        scale: () float; CLIP's exponentiated logit scale, 1 for classifiers.
        normalize: whether the embedding is normalised first (zero-shot heads, cosine probes).
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None, scale: float = 1.0, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        # One copy of what may be gigabytes.
        self.register_buffer("weight", weight.detach().to(torch.float32, copy=True))
        zeros = torch.zeros(len(weight)) if bias is None else bias.detach().clone().float()
        self.register_buffer("bias", zeros)
        self.register_buffer("scale", torch.tensor(float(scale)))
        # Known to Python: to ask a GPU for it would be to wait for all that it has been given to do.
        self._scaled = float(scale) != 1.0

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, E) embeddings to (B, C) logits; in float32: classes may differ by less than half precision shows."""
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.to(torch.promote_types(embedding.dtype, self.weight.dtype))
            if self.normalize:
                embedding = functional.normalize(embedding, dim=-1)
            # Without a scale the bias stays inside the product, as in nn.Linear: the native logits, bit for bit.
            if not self._scaled:
                return functional.linear(embedding, self.weight, self.bias)
            return self.scale * functional.linear(embedding, self.weight) + self.bias

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Self:
        """The head of a backbone's own classifier."""
        return cls(linear.weight, linear.bias)


class JoinedHead(nn.Module):
    """Classes and, after them, concepts: two heads on one embedding.

    Attributes:
        classes, concepts: LinearHead of C and of Q rows.
    """

    def __init__(self, classes: LinearHead, concepts: LinearHead) -> None:
        super().__init__()
        self.classes, self.concepts = classes, concepts

    @property
    def weight(self) -> Tensor:
        """Weights of the classes, (C, E)."""
        return self.classes.weight

    @property
    def normalize(self) -> tuple[bool, bool]:
        """Of both heads."""
        return self.classes.normalize, self.concepts.normalize

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, E) embeddings to (B, C + Q) logits."""
        return torch.cat([self.classes(embedding), self.concepts(embedding)], dim=1)


def blank_head(classes: int, embedding: int = 0) -> LinearHead:
    """The head of a model that has none: every logit is 0."""
    return LinearHead(torch.zeros(classes, embedding))


def read_probe(path: Path, scale: float | None = None) -> tuple[LinearHead, list[str] | None]:
    """A head from a file, and its class names.

    The file holds a linear layer, see `head_names`: `weight` (C, E) and, if it likes, `bias` (C,). It is a checkpoint
    that torch loads with weights_only, or of safetensors, whose metadata may give `classes` (a JSON list of C names),
    `normalize` ("true": unit-length embeddings) and `scale` (a number that the product is multiplied with).

    Args:
        path: of the file.
        scale: `model.head_scale`: rows are embeddings of texts, and logits this times their cosines with the image's
            embedding; None: as the file says.

    Raises:
        ConfigError: no such file, or not of this form.
    """
    where = f"model.head: {str(path)!r}"
    if not path.is_file():
        raise ConfigError(
            f"{where} is no file; valid: native, text, none, or the path of a safetensors file or of a checkpoint"
        )
    weight, bias = _linear(read_checkpoint(path, "model.head", "head"), where)
    metadata = _metadata(path)
    try:
        names = json.loads(metadata["classes"]) if "classes" in metadata else None
        own_scale = float(metadata.get("scale", 1))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: its metadata cannot be read: {error}") from None
    if names is not None and not (isinstance(names, list) and len(names) == len(weight)):
        raise ConfigError(f"{where}: its metadata `classes` must be a JSON list of {len(weight)} names")
    if not 0 < own_scale < math.inf:
        raise ConfigError(f"{where}: its metadata `scale` must be a number above 0, got {own_scale}")
    if scale is not None:
        head = LinearHead(functional.normalize(weight.float(), dim=1), bias, scale, normalize=True)
    else:
        head = LinearHead(weight, bias, own_scale, normalize=metadata.get("normalize", "").lower() == "true")
    return head, None if names is None else [str(name) for name in names]


def head_names(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the matrices (C, E) that may be a classifier's weights; where it is one, that is it.

    Those are what the usual libraries call so (`HEADS`); else weights with a bias that fits, as `classifier.1.weight`
    and `classifier.1.bias` are; else all matrices that are called weight.

    Args:
        state: tensors by name, of a linear layer alone or of a whole model.
    """
    matrices = [name for name, value in state.items() if value.ndim == 2 and len(value) > 1]
    named = [name for name in matrices if name.split(".")[-1] == "weight"]
    biased = [name for name in named if _fits(state.get(_bias_of(name)), state[name])]
    return [name for name in HEADS if name in matrices] or biased or named


def _linear(state: Mapping[str, Tensor], where: str) -> tuple[Tensor, Tensor | None]:
    """Weight (C, E) and bias (C,) of the one linear layer. Raises ConfigError."""
    names = head_names(state)
    if len(names) != 1:
        held = ", ".join(f"{name[:MAX_NAME]} {tuple(value.shape)}" for name, value in [*state.items()][-MAX_LISTED:])
        several = f"holds {len(names)} layers that may be the classifier ({', '.join(names[:MAX_LISTED])}): it "
        raise ConfigError(
            f"{where} {several if names else ''}needs a tensor `weight` (classes, embedding) and `bias`; "
            f"its last tensors: {held}"
        )
    weight, bias = state[names[0]], state.get(_bias_of(names[0]))
    if bias is not None and not _fits(bias, weight):
        raise ConfigError(f"{where}: bias {tuple(bias.shape)} does not fit weight {tuple(weight.shape)}")
    found = {names[0]: weight} if bias is None else {names[0]: weight, _bias_of(names[0]): bias}
    check_kinds(found, {name: torch.empty(0) for name in found}, where)
    check_numbers(found, where)
    return weight, bias


def _bias_of(name: str) -> str:
    return f"{name.removesuffix('weight')}bias"


def _fits(bias: Tensor | None, weight: Tensor) -> bool:
    return bias is not None and bias.shape == weight.shape[:1]


def probe_bytes(head: LinearHead, classes: Sequence[str], notes: Mapping[str, str]) -> bytes:
    """A linear probe as the safetensors file that `read_probe` reads, with further notes in its metadata."""
    form = {"classes": json.dumps(list(classes)), "normalize": json.dumps(head.normalize)}
    if (scale := head.scale.item()) != 1:
        form["scale"] = str(scale)
    return safetensors.torch.save({"weight": head.weight, "bias": head.bias}, {**notes, **form})


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; of any other file there is none."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError:
        return {}


def probe_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: after 8 bytes of length, a JSON header. Raises ValueError."""
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return metadata
