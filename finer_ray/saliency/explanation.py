"""The explanation of a batch: everything the export stores of it, from one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finer_ray.saliency import objective
from finer_ray.saliency.aggregation import combine
from finer_ray.saliency.gradcam import contrast_basis
from finer_ray.saliency.method import BatchContext, Cam
from finer_ray.saliency.methods import METHODS
from finer_ray.saliency.objective import wide
from finer_ray.saliency.spec import MapSpec, SaliencySpec
from finer_ray.saliency.split_classifier import SplitClassifier


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
        maps: (B, M, h, w) non-negative, in the order of `SaliencySpec.maps`.
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
    spec: SaliencySpec,
    target: Tensor | None = None,
    references: Tensor | None = None,
) -> Explanation:
    """Explain a batch: one forward pass, then 1 + K vector-Jacobian products from the logits to the CAM layer; and
    what passes the methods of the maps need beyond that.

    Images do not interact, and nothing is kept: calls from several threads do not disturb each other.

    Args:
        model: the classifier, cut at its CAM layer.
        images: (B, 3, H, W), normalised as the backbone wants them.
        spec: maps and references.
        target: (B,) int64 class to explain; where None, the predicted class, or what `spec.pairs` has for it.
        references: (B, K) int64, -1 for none; as `spec.selection` says where None.

    >>> from finer_ray.config.schema import ModelConfig
    >>> from finer_ray.models import build_classifier
    >>> model = build_classifier(ModelConfig(backbone="timm:test_vit", weights="random", image_size=64))
    >>> found = explain(model, torch.zeros(2, 3, 64, 64), SaliencySpec((MapSpec("mine", "layercam", gamma=0.6),)))
    >>> found.maps.shape, found.references.shape
    (torch.Size([2, 1, 4, 4]), torch.Size([2, 3]))
    """
    cut = model.cut(images)
    with torch.no_grad():
        logits = wide(model.head(cut.embedding))
    predicted = logits[:, : model.class_count].argmax(1)
    if target is None:
        target = predicted
        if spec.pairs is not None:
            pairs = _sent(spec.pairs, target)[predicted]
            target, references = pairs[:, 0], pairs[:, 1:]
    if references is None:
        references = choose_references(model, logits, target, spec)
    classes = torch.cat([target[:, None], references], dim=1)
    cotangent = head_cotangents(model.head, cut.embedding, classes)
    activation = wide(cut.activation)
    methods = {name: METHODS[name] for name in dict.fromkeys(wanted.cam for wanted in spec.maps)}
    gradients = None
    if any(method.cell_gradients for method in methods.values()):
        gradients = wide(cut.gradient(cotangent))
    alpha = cut.mean_gradient(cotangent) if gradients is None else gradients.mean((3, 4))
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        basis = contrast_basis(activation, alpha)
    known = logits.gather(1, classes.clamp(min=0))
    context = BatchContext(model, images, activation, basis, gradients, known, classes, spec.memory, spec.registration)
    with torch.no_grad():
        cams = {
            name: method.prepare(context, spec.settings.get(name, method.settings)) for name, method in methods.items()
        }
        with torch.autocast(images.device.type, enabled=False):
            maps = torch.stack([draw(context, cams[wanted.cam], wanted) for wanted in spec.maps], dim=1)
    return Explanation(
        embedding=wide(cut.embedding),
        logits=logits,
        predicted=predicted,
        target=target,
        references=references,
        basis=basis.masked_fill((classes < 0)[:, :, None, None], torch.nan),
        maps=maps,
    )


def draw(context: BatchContext, cam: Cam, wanted: MapSpec) -> Tensor:
    """One map of every image, (B, h, w) non-negative."""
    weights = context.weights(wanted.weighting)
    if wanted.weighting == "probability" and cam.weights is not None:
        weights = cam.weights
    return combine(cam.raw, weights, context.present, wanted.gamma, wanted.aggregation, wanted.reverse)


def choose_references(model: SplitClassifier, logits: Tensor, target: Tensor, spec: SaliencySpec) -> Tensor:
    """Each image's reference classes, (B, K) int64; -1 means none."""
    if spec.selection == "logit":
        count = model.class_count
        return objective.closest_logits(logits[:, :count], target, spec.references)
    if spec.selection == "weight":
        return objective.similar_weights(model.class_weights()[: model.class_count], target, spec.references)
    return objective.listed(_sent(spec.selection, target), target)


def _sent(numbers: tuple[Any, ...], to: Tensor) -> Tensor:
    """Python numbers as a tensor beside another; a GPU is not waited for."""
    return torch.tensor(numbers).to(to.device, non_blocking=True)


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
