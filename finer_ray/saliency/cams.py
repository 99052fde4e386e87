"""CAMs by name: each makes of a batch a function from an objective to maps before ReLU (see `aggregation`).

What does not depend on the objective is computed once per batch and serves every map of that CAM: the bases of
Grad-CAM, RISE and GEM, the gradients of Layer-CAM, the masked logits of Score-CAM, and where Mask's descents begin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from finer_ray.saliency.aggregation import combine, linear
from finer_ray.saliency.gem import gem, gem_basis
from finer_ray.saliency.layercam import layercam
from finer_ray.saliency.mask import circle_probabilities, perturbation
from finer_ray.saliency.objective import reference_weights
from finer_ray.saliency.rise import rise_basis
from finer_ray.saliency.scorecam import masked_logits, scorecam
from finer_ray.saliency.spec import CamName, Map, Question
from finer_ray.saliency.split_classifier import SplitClassifier


@dataclass(frozen=True)
class Evidence:
    """What CAMs are computed from; J = 1 + K, the target first.

    Attributes:
        model, question: as `finer_ray.saliency.explain` is given them.
        images: (B, 3, H, W).
        activation: (B, D, h, w).
        basis: of Grad-CAM, (B, J, h, w), finite.
        gradients: (B, J, D, h, w) where a Layer-CAM is wanted.
        logits: (B, J).
        classes: (B, J) int64; -1 means none.
    """

    model: SplitClassifier
    question: Question
    images: Tensor
    activation: Tensor
    basis: Tensor
    gradients: Tensor | None
    logits: Tensor
    classes: Tensor

    @property
    def present(self) -> Tensor:
        """(B, K) bool, which references there are."""
        return self.classes[:, 1:] >= 0

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.activation.shape[2], self.activation.shape[3]

    def weights(self, weighting: str) -> Tensor:
        """(B, K) of the references, by the logits of the images themselves."""
        return reference_weights(self.logits[:, 1:], self.present, weighting)


@dataclass(frozen=True)
class Cam:
    """A CAM of a batch.

    Attributes:
        raw: coefficients (B, S, J) to maps before ReLU (B, S, h, w).
        weights: of the references for `weighting: probability`, where they are not those of a derivative:
            (B, K), or (B, D, K) where they differ by channel.
    """

    raw: Callable[[Tensor], Tensor]
    weights: Tensor | None = None


def draw(evidence: Evidence, cam: Cam, wanted: Map) -> Tensor:
    """One map of every image, (B, h, w) non-negative."""
    weights = evidence.weights(wanted.weighting)
    if wanted.weighting == "probability" and cam.weights is not None:
        weights = cam.weights
    return combine(cam.raw, weights, evidence.present, wanted.gamma, wanted.aggregation, wanted.reverse)


def _gradcam(evidence: Evidence) -> Cam:
    return Cam(partial(linear, evidence.basis))


def _layercam(evidence: Evidence) -> Cam:
    if evidence.gradients is None:
        raise ValueError("Layer-CAM needs the gradients of every cell")
    return Cam(partial(layercam, evidence.activation, evidence.gradients))


def _scorecam(evidence: Evidence) -> Cam:
    scores = masked_logits(
        evidence.model, evidence.images, evidence.activation, evidence.classes, evidence.question.memory
    )
    # Inside the graph means here: each masked image weighs the references by what it says of them.
    present = evidence.present[:, None].expand_as(scores[..., 1:])
    weights = reference_weights(scores[..., 1:], present, "probability_detached")
    return Cam(partial(scorecam, evidence.activation, scores), weights)


def _rise(evidence: Evidence) -> Cam:
    basis = rise_basis(
        evidence.model,
        evidence.images,
        evidence.classes,
        evidence.model.class_count,
        evidence.grid,
        evidence.question.rise,
        evidence.question.memory,
    )
    return Cam(partial(linear, basis), evidence.weights("probability_detached"))


def _mask(evidence: Evidence) -> Cam:
    settings, memory = evidence.question.mask, evidence.question.memory
    shared = (evidence.images, evidence.classes, evidence.model.class_count)
    starts = circle_probabilities(evidence.model, *shared, settings, memory)
    # A descent runs the model where maps are drawn, which is in full precision: but the model in the caller's.
    kind = evidence.images.device.type
    precision = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
    logits = precision(evidence.model.differentiable)
    raw = partial(perturbation, logits, *shared, starts, evidence.grid, settings, memory)
    return Cam(raw, evidence.weights("probability_detached"))


def _gem(evidence: Evidence) -> Cam:
    basis = gem_basis(evidence.model, evidence.images, evidence.classes, evidence.grid, evidence.question.gem)
    return Cam(partial(gem, basis), evidence.weights("probability_detached"))


CAMS: dict[CamName, Callable[[Evidence], Cam]] = {
    "gradcam": _gradcam,
    "layercam": _layercam,
    "scorecam": _scorecam,
    # No derivative is taken of these: with `weighting: probability`, too, the shares are constants.
    "rise": _rise,
    "mask": _mask,
    "gem": _gem,
}
# Those whose many forward passes of masked images take as much memory as they are allowed, whatever the batch.
MASKED: frozenset[CamName] = frozenset(("scorecam", "rise", "mask"))
