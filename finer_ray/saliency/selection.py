"""Selection: which classes a target is compared with.

    logit     the closest logits, |y^d - y^c|
    weight    the largest cosine of classifier weights (Finer-CAM, supplementary, Eq. 11)
    top       the highest logits but the target's own: where the target is the predicted class, these are the closest,
              too; of another target they are the classes that the model takes it for, the predicted one first

or classes that are named: for every image, by class, or by image. Where classes have a taxon (genus, family, ...), each
of the first three may be kept within the target's.
"""

from typing import Any, Literal, get_args

from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.spec import SaliencySpec
from finer_ray.saliency.split_classifier import SplitClassifier

Ranking = Literal["logit", "weight", "top"]
RANKINGS: tuple[str, ...] = get_args(Ranking)
# In place of an image's references: it has none of its own, and is compared as all others.
CHOOSE = -2


def choose_references(
    model: SplitClassifier, logits: Tensor, target: Tensor, spec: SaliencySpec, own: Tensor | None = None
) -> Tensor:
    """Each image's reference classes.

    Args:
        model: for the weights of its classes.
        logits: (B, C) float, concepts after the classes.
        target: (B,) int64, a class of each image.
        spec: its `selection`, `by_class`, `taxa` and `references` say which.
        own: (B, K) int64 of images that name theirs, -1 for none; a row of CHOOSE where an image does not. None where
            no image does.

    Returns:
        (B, K) int64; -1 means none. The target itself is never among them.
    """
    chosen = _chosen(model, logits[:, : model.class_count], target, spec)
    return chosen if own is None else without(torch.where(own == CHOOSE, chosen, own), target)


def _chosen(model: SplitClassifier, logits: Tensor, target: Tensor, spec: SaliencySpec) -> Tensor:
    if spec.by_class is not None:
        return without(sent(spec.by_class, target)[target], target)
    if not isinstance(spec.selection, str):
        return without(sent(spec.selection, target).expand(len(target), -1), target)
    taxa = None if spec.taxa is None else sent(spec.taxa, target)
    if spec.selection == "weight":
        return similar_weights(model.class_weights()[: model.class_count], target, spec.references, taxa)
    ranked = highest_logits if spec.selection == "top" else closest_logits
    return ranked(logits, target, spec.references, taxa)


def closest_logits(logits: Tensor, target: Tensor, count: int, taxa: Tensor | None = None) -> Tensor:
    """The `count` classes whose logits are closest to the target's, closest first.

    Args:
        logits: (B, C) float.
        target: (B,) int64, the target class c of each image.
        count: K; at most C - 1 are returned.
        taxa: see `nearest`.

    Returns:
        (B, min(K, C - 1)) int64. The target itself is never among them.

    >>> closest_logits(torch.tensor([[5.0, 1.0, 4.0, 0.0]]), torch.tensor([1]), 2)
    tensor([[3, 2]])
    """
    return nearest((logits - logits.gather(1, target[:, None])).abs(), target, count, taxa)


def highest_logits(logits: Tensor, target: Tensor, count: int, taxa: Tensor | None = None) -> Tensor:
    """The `count` classes with the highest logits but the target, the highest first; else as `closest_logits`.

    >>> highest_logits(torch.tensor([[5.0, 1.0, 4.0, 0.0]]), torch.tensor([1]), 2)
    tensor([[0, 2]])
    """
    return nearest(-logits, target, count, taxa)


def similar_weights(weight: Tensor, target: Tensor, count: int, taxa: Tensor | None = None) -> Tensor:
    """The `count` classes whose classifier weights have the largest cosine with the target's (Eq. 11).

    Args:
        weight: (C, E) float, a row per class.
        target: (B,) int64.
        count: K; at most C - 1 are returned.
        taxa: see `nearest`.

    Returns:
        (B, min(K, C - 1)) int64, most similar first, never the target itself.
    """
    # In the weights' own precision, and without a copy of them: some classifiers have a million rows.
    with torch.autocast(weight.device.type, enabled=False):
        length = weight.norm(dim=1).clamp(min=1e-12)
        return nearest(functional.normalize(weight[target], dim=1) @ weight.T / -length, target, count, taxa)


def nearest(distance: Tensor, target: Tensor, count: int, taxa: Tensor | None = None) -> Tensor:
    """The `count` classes with the smallest distance, the smallest first.

    Args:
        distance: (B, C) float; NaN is taken for the largest.
        target: (B,) int64, which is never among them.
        count: K; at most C - 1 are returned.
        taxa: (C,) int, the number of each class's taxon, -1 for none; then only classes of the target's are taken.

    Returns:
        (B, min(K, C - 1)) int64; -1 where a taxon has fewer others.
    """
    # Behind every other class, NaN included.
    distance = distance.nan_to_num(nan=torch.finfo(distance.dtype).max).scatter(1, target[:, None], torch.inf)
    if taxa is not None:
        of_target = taxa[target][:, None]
        distance = distance.masked_fill((taxa != of_target) | (of_target < 0), torch.inf)
    found = distance.topk(min(count, distance.shape[1] - 1), dim=1, largest=False, sorted=True)
    return found.indices if taxa is None else found.indices.masked_fill(found.values == torch.inf, -1)


def without(references: Tensor, target: Tensor) -> Tensor:
    """References, (B, K) int64, with -1 (none) where an image's target, (B,), is itself among them."""
    return references.masked_fill(references == target[:, None], -1)


def sent(numbers: Any, to: Tensor) -> Tensor:
    """Numbers as int64 beside another tensor; a GPU is not waited for."""
    return torch.as_tensor(numbers, dtype=torch.int64).to(to.device, non_blocking=True)
