"""The explanation of a batch: everything the export stores of it, from one forward pass."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from finer_ray.saliency import objective
from finer_ray.saliency.aggregation import contrast
from finer_ray.saliency.gradcam import contrast_basis


class SplitClassifier(Protocol):
    """A classifier cut at its CAM layer: logits = head(tail(*trunk(images)))."""

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images to the CAM layer's activation, and what else the tail needs."""

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """Activation to embedding (B, E)."""

    def head(self, embedding: Tensor) -> Tensor:
        """Embedding to logits (B, C)."""

    def grid(self, activation: Tensor) -> Tensor:
        """Activation (or its gradient) to (B, D, h, w)."""

    def class_weights(self) -> Tensor:
        """The head's weights (C, E), for Eq. 11."""


@dataclass(frozen=True)
class Question:
    """What is asked of every image.

    Attributes:
        maps: names of the maps wanted.
        gamma, aggregation: see `finer_ray.saliency.aggregation.contrast`.
        references: K.
        selection: `logit`, `weight`, or the class indices that every image is compared with.
    """

    maps: tuple[str, ...] = ("gradcam", "finer_gradcam")
    gamma: float = 0.6
    references: int = 3
    selection: Literal["logit", "weight"] | tuple[int, ...] = "logit"
    aggregation: str = "mean_before_relu"

    def reference_count(self, classes: int) -> int:
        """K for a classifier with this many classes: never more than there are others."""
        if not isinstance(self.selection, str):
            return len(self.selection)
        return min(self.references, classes - 1)


@dataclass(frozen=True)
class Explanation:
    """Detached results for B images; float32 unless the model runs in float64.

    Attributes:
        embedding: (B, E).
        logits: (B, C).
        target: (B,) int64.
        references: (B, K) int64; -1 means none.
        basis: (B, 1+K, h, w), M_j of the target and its references before ReLU; NaN where there is none.
        maps: (B, M, h, w) non-negative, in the order of `Question.maps`.
    """

    embedding: Tensor
    logits: Tensor
    target: Tensor
    references: Tensor
    basis: Tensor
    maps: Tensor


def explain(model: SplitClassifier, images: Tensor, question: Question, target: Tensor | None = None) -> Explanation:
    """Explain a batch: one forward pass, then 1 + K vector-Jacobian products through the tail alone.

    Args:
        model: the classifier, cut at its CAM layer.
        images: (B, 3, H, W), normalised as the backbone wants them.
        question: maps, gamma and references.
        target: (B,) int64 class to explain; the predicted class when None.
    """
    with torch.no_grad():
        activation, residual = model.trunk(images)
    activation = activation.detach().requires_grad_()
    with torch.enable_grad():
        embedding = model.tail(activation, residual)
        logits = model.head(embedding)
        wide = torch.promote_types(logits.dtype, torch.float32)
        if target is None:
            target = logits.detach().argmax(1)
        references = choose_references(model, logits.detach().to(wide), target, question)
        basis = contrast_basis(logits, activation, model.grid, torch.cat([target[:, None], references], dim=1))
    return Explanation(
        embedding=embedding.detach().to(wide),
        logits=logits.detach().to(wide),
        target=target,
        references=references,
        basis=basis,
        maps=draw(basis, references >= 0, question),
    )


def choose_references(model: SplitClassifier, logits: Tensor, target: Tensor, question: Question) -> Tensor:
    """Each image's reference classes, (B, K) int64; -1 means none."""
    if question.selection == "logit":
        return objective.closest_logits(logits, target, question.references)
    if question.selection == "weight":
        return objective.similar_weights(model.class_weights(), target, question.references)
    return objective.listed(torch.tensor(question.selection, device=target.device), target)


def draw(basis: Tensor, present: Tensor, question: Question) -> Tensor:
    """The maps asked for, (B, M, h, w) non-negative, from the contrast basis."""
    drawn = {
        "gradcam": lambda: contrast(basis, 0.0, present=present),
        "finer_gradcam": lambda: contrast(basis, question.gamma, question.aggregation, present),
    }
    return torch.stack([drawn[name]() for name in question.maps], dim=1)
