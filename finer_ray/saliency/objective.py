"""The Finer-CAM objective: how the references enter it, and the probabilities of classes.

s = y^c - gamma * mean_k y^{d_k}        (Finer-CAM, supplementary; c the target, d_1..d_K its references)
"""

from typing import Literal, get_args

import numpy as np

from finer_ray.arrays import Array, namespace
from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.split_classifier import Activation, SplitClassifier

Weighting = Literal["equal", "probability", "probability_detached"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


def reference_weights(logits: Array, present: Array, weighting: str) -> Array:
    """Weights w_k of the references in s = y^c - gamma * sum_k w_k y^{d_k}, as they enter its derivative.

    With p_k the softmax over an image's references, which is their share of probability among themselves:

        equal                   1 / K
        probability_detached    p_k, taken as constants
        probability             p_k (1 + y^{d_k} - sum_l p_l y^{d_l}), the derivative with the p_k inside the graph
                                (pytorch-grad-cam's FinerWeightedTarget)

    All three sum to 1, and need nothing but the references' logits.

    Args:
        logits: (..., K) float of the references, an array or a tensor; anything where they do not count.
        present: (..., K) bool of the same kind, which references count.
        weighting: one of `WEIGHTINGS`.

    Returns:
        (..., K) of the same kind and dtype, zero where a reference does not count.

    >>> reference_weights(np.zeros((1, 2)), np.array([[True, True]]), "equal")
    array([[0.5, 0.5]])
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is none of {', '.join(WEIGHTINGS)}")
    xp = namespace(logits)
    if weighting == "equal" or not logits.shape[-1]:
        counted = xp.where(present, xp.ones_like(logits), 0.0)
        equal: Array = counted / counted.sum(-1)[..., None].clip(min=1)
        return equal
    known = xp.where(present, logits, 0.0)
    # A softmax among those that count; an image without references has none.
    largest = xp.amax(xp.where(present, logits, -np.inf), -1)[..., None]
    odds = xp.exp(xp.where(present, known - largest, -np.inf))
    total = odds.sum(-1)[..., None]
    shares: Array = odds / xp.where(total > 0, total, 1.0)
    if weighting == "probability":
        shares = shares * (1 + known - (shares * known).sum(-1)[..., None])
    return shares


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Probabilities of the classes that logits are of: the only place where one becomes the other.

    Args:
        logits: (n, C).
        activation: softmax, of one class among C; or sigmoid, of each class by itself (multi-label classifiers).

    Returns:
        (n, C) float32 (float64 for float64 logits).

    >>> probabilities(torch.zeros(1, 4), "softmax"), probabilities(torch.zeros(1, 2), "sigmoid")
    (tensor([[0.2500, 0.2500, 0.2500, 0.2500]]), tensor([[0.5000, 0.5000]]))
    """
    return wide(logits).sigmoid() if activation == "sigmoid" else wide(logits).softmax(1)


def class_probabilities(model: SplitClassifier, logits: Tensor, classes: Tensor) -> Tensor:
    """Probabilities of some classes.

    Args:
        model: the classifier, which says which logits are of classes, and by which activation they are probabilities.
        logits: (n, C), of which the first are classes and the rest concepts, which have no probability.
        classes: (n, J) int64; -1 means none.

    Returns:
        (n, J) float32 (float64 for float64 logits); NaN for concepts and for -1.
    """
    count = model.class_count
    found = probabilities(logits[:, :count], model.activation).gather(1, classes.clamp(0, count - 1))
    return found.masked_fill((classes < 0) | (classes >= count), torch.nan)


def choice_probabilities(model: SplitClassifier, logits: Tensor, classes: Tensor) -> Tensor:
    """Probabilities of classes among the classes, and of concepts among the concepts.

    A concept has no probability among the classes; among the texts that may be asked about it has one, and methods
    that ask for the model's answer to a changed image need one.

    Args:
        model: the classifier, see `class_probabilities`.
        logits: (n, C), of which the first are classes and the rest concepts.
        classes: (n, J) int64; -1 means none.

    Returns:
        (n, J) float32 (float64 for float64 logits); anything finite for -1.
    """
    parts = logits[:, : model.class_count], logits[:, model.class_count :]
    known = torch.cat([probabilities(part, model.activation) for part in parts], dim=1)
    return known.gather(1, classes.clamp(min=0))


def wide(values: Tensor) -> Tensor:
    """Values in float32 at least: half precision is for the model alone."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
