"""The Finer-CAM objective: how the references enter it, and the probabilities of classes.

s = y^c - gamma * mean_k y^{d_k}        (Finer-CAM, supplementary; c the target, d_1..d_K its references)
"""

from typing import Literal, get_args

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.split_classifier import Activation, SplitClassifier

Weighting = Literal["equal", "probability", "probability_detached"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


def reference_weights(logits: Tensor, present: Tensor, weighting: str) -> Tensor:
    """Weights w_k of the references in s = y^c - gamma * sum_k w_k y^{d_k}, as they enter its derivative.

    With p_k the softmax over an image's references, which is their share of probability among themselves:

        equal                   1 / K
        probability_detached    p_k, taken as constants
        probability             p_k (1 + y^{d_k} - sum_l p_l y^{d_l}), the derivative with the p_k inside the graph
                                (pytorch-grad-cam's FinerWeightedTarget)

    All three sum to 1, and need nothing but the references' logits.

    Args:
        logits: (..., K) of the references; anything where they do not count.
        present: (..., K) bool, which references count.
        weighting: one of `WEIGHTINGS`.

    Returns:
        (..., K), zero where a reference does not count.

    >>> reference_weights(torch.zeros(1, 2), torch.tensor([[True, True]]), "equal")
    tensor([[0.5000, 0.5000]])
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is none of {', '.join(WEIGHTINGS)}")
    if weighting == "equal":
        return present.to(logits.dtype) / present.sum(-1, keepdim=True).clamp(min=1)
    known = logits.masked_fill(~present, 0)
    # An image without references has no softmax.
    shares = logits.masked_fill(~present, -torch.inf).softmax(-1).masked_fill(~present, 0)
    if weighting == "probability":
        shares = shares * (1 + known - (shares * known).sum(-1, keepdim=True))
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
