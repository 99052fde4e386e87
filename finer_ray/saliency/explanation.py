"""The explanation of a batch: everything the export stores of it, from one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from finer_ray.saliency import objective
from finer_ray.saliency.aggregation import combine, contrast
from finer_ray.saliency.gradcam import contrast_basis
from finer_ray.saliency.layercam import layercam
from finer_ray.saliency.scorecam import masked_logits, scorecam

CamName = Literal["gradcam", "layercam", "scorecam"]


class Cut(Protocol):
    """A batch after the forward pass.

    Attributes:
        embedding: (B, E), detached.
        activation: (B, D, h, w) of the CAM layer, detached.
    """

    embedding: Tensor
    activation: Tensor

    def gradient(self, cotangent: Tensor) -> Tensor:
        """Cotangents of the embedding (B, J, E) to those of the activation (B, J, D, h, w)."""

    def mean_gradient(self, cotangent: Tensor) -> Tensor:
        """Their spatial means, (B, J, D)."""


class SplitClassifier(Protocol):
    """A classifier cut at its CAM layer: logits = head(cut(images).embedding)."""

    @property
    def class_count(self) -> int:
        """How many logits, from the first, are classes that can be predicted; further ones are concepts."""

    def cut(self, images: Tensor) -> Cut:
        """One forward pass, ready for derivatives."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits alone, (B, C)."""

    def head(self, embedding: Tensor) -> Tensor:
        """Embedding (n, E) to logits (n, C), row by row."""

    def class_weights(self) -> Tensor:
        """The head's weights (C, E), for Eq. 11."""


@dataclass(frozen=True)
class Map:
    """One saliency map that is asked for.

    Attributes:
        name: under which it is stored.
        cam: `gradcam`, `layercam` or `scorecam`.
        gamma: 0 for the baseline.
        aggregation, reverse: see `finer_ray.saliency.contrast`.
        weighting: see `finer_ray.saliency.reference_weights`.
    """

    name: str
    cam: CamName = "gradcam"
    gamma: float = 0.0
    aggregation: str = "mean_before_relu"
    weighting: str = "equal"
    reverse: bool = False


GRADCAM, FINER = Map("gradcam"), Map("finer_gradcam", gamma=0.6)


@dataclass(frozen=True)
class Question:
    """What is asked of every image.

    Attributes:
        maps: the maps wanted.
        references: K.
        selection: `logit`, `weight`, or the class indices that every image is compared with.
        pairs: where given, the target and the one reference for each predicted class; then `references` is 1.
        memory: bytes that Score-CAM's masked images may take at a time.
    """

    maps: tuple[Map, ...] = (GRADCAM, FINER)
    references: int = 3
    selection: Literal["logit", "weight"] | tuple[int, ...] = "logit"
    pairs: tuple[tuple[int, int], ...] | None = None
    memory: int = 2**30

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
        predicted: (B,) int64, the class with the largest logit (concepts are not predicted).
        target: (B,) int64.
        references: (B, K) int64; -1 means none.
        basis: (B, 1+K, h, w), M_j of the target and its references before ReLU; NaN where there is none.
        maps: (B, M, h, w) non-negative, in the order of `Question.maps`.
    """

    embedding: Tensor
    logits: Tensor
    predicted: Tensor
    target: Tensor
    references: Tensor
    basis: Tensor
    maps: Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.inference_mode(False)  # a caller's inference mode would forbid all derivatives
def explain(
    model: SplitClassifier,
    images: Tensor,
    question: Question,
    target: Tensor | None = None,
    references: Tensor | None = None,
) -> Explanation:
    """Explain a batch: one forward pass, then 1 + K vector-Jacobian products from the logits to the CAM layer.

    Images do not interact, and nothing is kept: calls from several threads do not disturb each other.

    Args:
        model: the classifier, cut at its CAM layer.
        images: (B, 3, H, W), normalised as the backbone wants them.
        question: maps and references.
        target: (B,) int64 class to explain; where None, the predicted class, or what `question.pairs` has for it.
        references: (B, K) int64, -1 for none; as `question.selection` says where None.
    """
    cut = model.cut(images)
    with torch.no_grad():
        logits = _wide(model.head(cut.embedding))
    predicted = logits[:, : model.class_count].argmax(1)
    if target is None:
        target = predicted
        if question.pairs is not None:
            pairs = torch.tensor(question.pairs, device=target.device)[predicted]
            target, references = pairs[:, 0], pairs[:, 1:]
    if references is None:
        references = choose_references(model, logits, target, question)
    classes = torch.cat([target[:, None], references], dim=1)
    cotangent = head_cotangents(model.head, cut.embedding, classes)
    activation = _wide(cut.activation)
    gradients = None
    if any(wanted.cam == "layercam" for wanted in question.maps):
        gradients = _wide(cut.gradient(cotangent))
    alpha = cut.mean_gradient(cotangent) if gradients is None else gradients.mean((3, 4))
    scores = None
    if any(wanted.cam == "scorecam" for wanted in question.maps):
        scores = masked_logits(model, images, activation, classes, question.memory)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        basis = contrast_basis(activation, alpha)
        evidence = Evidence(activation, basis, gradients, scores, logits.gather(1, classes.clamp(min=0)), classes >= 0)
        maps = torch.stack([evidence.draw(wanted) for wanted in question.maps], dim=1)
    return Explanation(
        embedding=_wide(cut.embedding),
        logits=logits,
        predicted=predicted,
        target=target,
        references=references,
        basis=basis.masked_fill((classes < 0)[:, :, None, None], torch.nan),
        maps=maps,
    )


def choose_references(model: SplitClassifier, logits: Tensor, target: Tensor, question: Question) -> Tensor:
    """Each image's reference classes, (B, K) int64; -1 means none."""
    if question.selection == "logit":
        count = model.class_count
        return objective.closest_logits(logits[:, :count], target, question.references)
    if question.selection == "weight":
        return objective.similar_weights(model.class_weights()[: model.class_count], target, question.references)
    return objective.listed(torch.tensor(question.selection, device=target.device), target)


def head_cotangents(head: Callable[[Tensor], Tensor], embedding: Tensor, classes: Tensor) -> Tensor:
    """d y^j / d embedding of each image's classes, in one pass through the head.

    Args:
        head: (n, E) to (n, C), row by row.
        embedding: (B, E).
        classes: (B, J) int64; -1 means none, and its cotangent is zero.

    Returns:
        (B, J, E).
    """
    with torch.enable_grad():
        # Every image once per class, so that the head's weights are read once.
        rows = embedding.repeat_interleave(classes.shape[1], 0).requires_grad_()
        chosen = head(rows).gather(1, classes.clamp(min=0).flatten()[:, None])
        (cotangent,) = torch.autograd.grad(chosen.sum(), rows)
    return cotangent.reshape(*classes.shape, -1).masked_fill((classes < 0)[..., None], 0)


@dataclass(frozen=True)
class Evidence:
    """What the maps of a batch are drawn from; J = 1 + K, the target first.

    Attributes:
        activation: (B, D, h, w).
        basis: (B, J, h, w).
        gradients: (B, J, D, h, w) where a Layer-CAM is wanted.
        scores: (B, D, J), logits of the masked images, where a Score-CAM is wanted.
        logits: (B, J).
        known: (B, J) bool, which of them there are.
    """

    activation: Tensor
    basis: Tensor
    gradients: Tensor | None
    scores: Tensor | None
    logits: Tensor
    known: Tensor

    def draw(self, wanted: Map) -> Tensor:
        """One map of every image, (B, h, w) non-negative."""
        present = self.known[:, 1:]
        weights = objective.reference_weights(self.logits[:, 1:], present, wanted.weighting)
        if wanted.cam == "gradcam":
            return contrast(self.basis, wanted.gamma, wanted.aggregation, present, wanted.reverse, weights)
        if wanted.cam == "layercam" and self.gradients is not None:
            raw = partial(layercam, self.activation, self.gradients)
        elif wanted.cam == "scorecam" and self.scores is not None:
            raw = partial(scorecam, self.activation, self.scores)
            if wanted.weighting == "probability":
                # Inside the graph means here: each masked image weighs the references by what it says of them.
                masks = present[:, None].expand_as(self.scores[..., 1:])
                weights = objective.reference_weights(self.scores[..., 1:], masks, "probability_detached")
        else:
            raise ValueError(f"map {wanted.name!r}: no CAM {wanted.cam!r}, or what it needs was not computed")
        return combine(raw, weights, present, wanted.gamma, wanted.aggregation, wanted.reverse)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
