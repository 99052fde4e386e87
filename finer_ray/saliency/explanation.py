"""The explanation of a batch: everything the export stores of it, from one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from finer_ray.saliency.aggregation import combine
from finer_ray.saliency.gradcam import contrast_basis
from finer_ray.saliency.map_embedding import map_embedding
from finer_ray.saliency.method import BatchContext, Cam, taken
from finer_ray.saliency.methods import METHODS
from finer_ray.saliency.objective import wide
from finer_ray.saliency.patches import patch_features, top_cells
from finer_ray.saliency.selection import choose_references, sent
from finer_ray.saliency.spec import MapSpec, SaliencySpec
from finer_ray.saliency.split_classifier import SplitClassifier


@dataclass(frozen=True)
class Explanation:
    """Detached results for B images; float32 unless the model runs in float64.

    Where T targets of each image are explained, target, references, basis and maps have an axis of T behind that of the
    images; those of a target that an image lacks are -1 and NaN.

    Attributes:
        embedding: (B, E).
        logits: (B, C).
        predicted: (B,) int64, the class with the largest logit (concepts are not predicted).
        target: (B,) int64.
        references: (B, K) int64; -1 means none.
        basis: (B, 1+K, h, w), M_j of the target and its references before ReLU; NaN where there is none.
        maps: (B, M, h, w) non-negative, in the order of `SaliencySpec.maps`.
        patch_cells, patches: of the first target, where `SaliencySpec.patches` asks for n of them, else None: the cells
            with the most evidence (B, n) int64, y * w + x, -1 where there are fewer, and what the model has seen there,
            (B, n, 64), NaN where there is no cell; see `finer_ray.saliency.patches`.
        map_embedding: of the first target, (B, D) of length 1, where `SaliencySpec.map_embedding` asks for it, else
            None; see `finer_ray.saliency.map_embedding`.
    """

    embedding: Tensor
    logits: Tensor
    predicted: Tensor
    target: Tensor
    references: Tensor
    basis: Tensor
    maps: Tensor
    patch_cells: Tensor | None = None
    patches: Tensor | None = None
    map_embedding: Tensor | None = None

    def by_target(self) -> list[Self]:
        """The explanation of each target, the first first; of a single one, this one."""
        if self.target.ndim == 1:
            return [self]
        names = ("target", "references", "basis", "maps")
        columns = zip(*(getattr(self, name).unbind(1) for name in names), strict=True)
        return [replace(self, **dict(zip(names, column, strict=True))) for column in columns]


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.inference_mode(False)  # a caller's inference mode would forbid all derivatives
def explain(
    model: SplitClassifier,
    images: Tensor,
    spec: SaliencySpec,
    target: Tensor | None = None,
    references: Tensor | None = None,
) -> Explanation:
    """Explain a batch: one forward pass, then a vector-Jacobian product from the logits to the CAM layer for each class
    that is a target or a reference; and what passes the methods of the maps need beyond that.

    Images do not interact, and nothing is kept: calls from several threads do not disturb each other.

    Args:
        model: the classifier, cut at its CAM layer.
        images: (B, 3, H, W), normalised as the backbone wants them.
        spec: maps and references.
        target: (B,) int64 class to explain, or (B, T) several, -1 for none; where None, those that `spec` asks for: the
            predicted class, what `spec.pairs` has for it, or `spec.targets` classes.
        references: (B, K) int64, which serve each target but itself, or (B, T, K), -1 for none; as the spec says where
            None, and where `spec.by_image` is set for the rows of (B, K) that hold CHOOSE (see
            `finer_ray.saliency.selection`).

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
        target = predicted if spec.targets == 1 else highest_classes(model, logits, spec.targets, spec.positives)
        if spec.pairs is not None:
            pairs = sent(spec.pairs, target)[predicted]
            target, references = pairs[:, 0], pairs[:, 1:]
    if references is None or spec.by_image:
        references = _chosen(model, logits, target, spec, references)
    elif references.ndim == target.ndim:
        references = _apart(references[:, None].expand(*target.shape, -1), target)
    asked = torch.cat([target[..., None], references], dim=-1)
    # Targets are each other's references: every class goes through the tail once.
    classes, places = (asked, None) if target.ndim == 1 else distinct(asked.flatten(1))
    cotangent = head_cotangents(model.head, cut.embedding, classes)
    activation = wide(cut.activation)
    gradients = None
    if any(METHODS[wanted.cam].cell_gradients for wanted in spec.maps):
        gradients = wide(cut.gradient(cotangent))
    alpha = cut.mean_gradient(cotangent) if gradients is None else gradients.mean((3, 4))
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        basis = contrast_basis(activation, alpha)
    known = logits.gather(1, classes.clamp(min=0))
    context = BatchContext(model, images, activation, basis, gradients, known, classes, spec.memory, spec.registration)
    if places is None:
        maps = draw_maps(context, spec)
    else:
        each = places.unflatten(1, asked.shape[1:]).unbind(1)
        maps = torch.stack([draw_maps(context.of(own), spec) for own in each], dim=1)
        maps = maps.masked_fill((target < 0)[..., None, None, None], torch.nan)
        basis = taken(basis, places).unflatten(1, asked.shape[1:])
    # Of the first target alone.
    one = (basis, references) if places is None else (basis[:, 0], references[:, 0])
    cells, patches = _patches(activation, *one, spec) if spec.patches else (None, None)
    pooled = map_embedding(activation, *one, spec.gamma) if spec.map_embedding else None
    return Explanation(
        embedding=wide(cut.embedding),
        logits=logits,
        predicted=predicted,
        target=target,
        references=references,
        basis=basis.masked_fill((asked < 0)[..., None, None], torch.nan),
        maps=maps,
        patch_cells=cells,
        patches=patches,
        map_embedding=pooled,
    )


@torch.no_grad()
def _patches(activation: Tensor, basis: Tensor, references: Tensor, spec: SaliencySpec) -> tuple[Tensor, Tensor]:
    """Cells and features of one target (B, K) of each image; basis finite."""
    with torch.autocast(activation.device.type, enabled=False):
        cells = top_cells(basis, references >= 0, spec.gamma, spec.patches)
        return cells, patch_features(activation, cells)


@torch.no_grad()
def draw_maps(context: BatchContext, spec: SaliencySpec) -> Tensor:
    """The maps of one target of every image, (B, M, h, w)."""
    methods = {name: METHODS[name] for name in dict.fromkeys(wanted.cam for wanted in spec.maps)}
    cams = {name: method.prepare(context, spec.settings.get(name, method.settings)) for name, method in methods.items()}
    with torch.autocast(context.images.device.type, enabled=False):
        return torch.stack([draw(context, cams[wanted.cam], wanted) for wanted in spec.maps], dim=1)


def draw(context: BatchContext, cam: Cam, wanted: MapSpec) -> Tensor:
    """One map of every image, (B, h, w) non-negative."""
    weights = context.weights(wanted.weighting)
    if wanted.weighting == "probability" and cam.weights is not None:
        weights = cam.weights
    return combine(cam.raw, weights, context.present, wanted.gamma, wanted.aggregation, wanted.reverse)


def highest_classes(model: SplitClassifier, logits: Tensor, count: int, positives: bool) -> Tensor:
    """The classes with the highest logits, the highest first.

    Args:
        model: the classifier.
        logits: (B, C); concepts are not among them.
        count: T.
        positives: leave out those whose sigmoid is below 0.5, but never the first.

    Returns:
        (B, T) int64; -1 means none.
    """
    values, classes = logits[:, : model.class_count].topk(count, dim=1)
    # The sigmoid is 0.5 where the logit is 0. NaN is no reason to leave one out: the image fails by it.
    negative = torch.cat([torch.zeros_like(values[:, :1], dtype=torch.bool), values[:, 1:] < 0], dim=1)
    return classes.masked_fill(negative, -1) if positives else classes


def distinct(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's classes without repetitions.

    Args:
        classes: (B, N) int64; -1 means none.

    Returns:
        (B, U) int64 in ascending order, filled up with -1; and (B, N) int64, the place of each class among them.

    >>> distinct(torch.tensor([[5, 2, 5], [1, 3, 7]]))
    (tensor([[ 2,  5, -1],
            [ 1,  3,  7]]), tensor([[1, 0, 1],
            [0, 1, 2]]))
    """
    ascending, order = classes.sort(1)
    first = torch.cat([torch.ones_like(ascending[:, :1]), (ascending.diff(dim=1) != 0).long()], dim=1)
    place = first.cumsum(1) - 1
    # The one time that a GPU is waited for: how many they are decides how much work there is.
    found = classes.new_full((len(classes), int(place.max()) + 1), -1).scatter_(1, place, ascending)
    return found, torch.empty_like(place).scatter_(1, order, place)


def _chosen(model: SplitClassifier, logits: Tensor, target: Tensor, spec: SaliencySpec, own: Tensor | None) -> Tensor:
    """Reference classes of each target, (B, K) or (B, T, K) int64; -1 means none."""
    if target.ndim == 1:
        return choose_references(model, logits, target, spec, own)
    each = [choose_references(model, logits, column.clamp(min=0), spec, own) for column in target.unbind(1)]
    return _apart(torch.stack(each, dim=1), target)


def _apart(references: Tensor, target: Tensor) -> Tensor:
    """References (B, T, K) less those that are their own target (B, T), or of none."""
    target = target[..., None]
    return references.masked_fill((references == target) | (target < 0), -1)


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
