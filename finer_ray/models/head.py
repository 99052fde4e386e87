"""Heads: from embedding to logits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from finer_ray.errors import ConfigError
from finer_ray.models.checkpoint import check_numbers


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
        self.register_buffer("weight", weight.detach().clone().float())
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


def read_probe(path: Path) -> tuple[LinearHead, list[str] | None]:
    """A linear probe from a safetensors file, and its class names.

    The file holds `weight` (C, E) and, if it likes, `bias` (C,); its metadata may give `classes` (a JSON list of
    C names) and `normalize` ("true": unit-length embeddings).

    Raises:
        ConfigError: no such file, or not of this form.
    """
    where = f"model.head: {str(path)!r}"
    if not path.is_file():
        raise ConfigError(f"{where} is no file; valid: native, text, none, or the path of a safetensors file")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        names = json.loads(metadata["classes"]) if "classes" in metadata else None
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be read as safetensors: {error}") from None
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or weight.ndim != 2:
        raise ConfigError(f"{where} needs a tensor `weight` (classes, embedding); it has {sorted(tensors)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ConfigError(f"{where}: bias {tuple(bias.shape)} does not fit weight {tuple(weight.shape)}")
    check_numbers({name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}, where)
    if names is not None and not (isinstance(names, list) and len(names) == len(weight)):
        raise ConfigError(f"{where}: its metadata `classes` must be a JSON list of {len(weight)} names")
    head = LinearHead(weight, bias, normalize=metadata.get("normalize", "").lower() == "true")
    return head, None if names is None else [str(name) for name in names]


def probe_bytes(head: LinearHead, classes: Sequence[str], notes: Mapping[str, str]) -> bytes:
    """A linear probe as the safetensors file that `read_probe` reads, with further notes in its metadata."""
    form = {"classes": json.dumps(list(classes)), "normalize": json.dumps(head.normalize)}
    return safetensors.torch.save({"weight": head.weight, "bias": head.bias}, {**notes, **form})


def probe_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: after 8 bytes of length, a JSON header. Raises ValueError."""
    size = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return metadata
