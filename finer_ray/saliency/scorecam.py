"""Score-CAM (Wang et al. 2020): channels weighted by what the model says of the image seen through them.

    mask_i = channel i of A, brought to the image's pixels, min-max normalised
    map    = ReLU(sum_i softmax_i(s(image * mask_i)) A_i),    s = sum_j a_j y^j

The logits y^j of the masked images do not depend on gamma or on how references are combined: they are computed once
and serve every objective. With `saliency.registration: stretch` channels are stretched with their corners aligned, as
in pytorch-grad-cam.
"""

from collections.abc import Callable
from functools import partial

from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.objective import reference_weights
from finer_ray.saliency.registration import Registration, draw


def masked_logits(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    activation: Tensor,
    classes: Tensor,
    memory: int,
    registration: Registration | None = None,
) -> Tensor:
    """Logits of every image seen through each channel of its activation.

    Args:
        logits: the model, (n, 3, H, W) to (n, C).
        images: (B, 3, H, W), normalised.
        activation: A, (B, D, h, w).
        classes: (B, J) int64; -1 means none.
        memory: bytes that masked images may take, see `finer_ray.saliency.budget`.
        registration: of the activation; None: stretched, with corners aligned.

    Returns:
        (B, D, J) in the activation's dtype.
    """
    size = images.shape[2:]
    step = in_flight(images, memory)
    scores = activation.new_empty((*activation.shape[:2], classes.shape[1]))
    cells = activation.flatten(0, 1)[:, None]
    owners = torch.arange(len(images), device=images.device).repeat_interleave(activation.shape[1])
    wanted = classes.clamp(min=0)
    flat = scores.flatten(0, 1)
    for first in range(0, len(cells), step):
        rows = slice(first, first + step)
        if registration is None:
            masks = functional.interpolate(cells[rows], size=size, mode="bilinear", align_corners=True)
        else:
            masks = draw(cells[rows], size, registration)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)
        masked = images[owners[rows]] * masks.to(images.dtype)
        flat[rows] = logits(masked).to(flat.dtype).gather(1, wanted[owners[rows]])
    return scores


def scorecam(activation: Tensor, scores: Tensor, coefficients: Tensor) -> Tensor:
    """Score-CAM before its last ReLU.

    Args:
        activation: A, (B, D, h, w).
        scores: what `masked_logits` gives, (B, D, J); finite.
        coefficients: a_j, (B, S, J), or (B, S, D, J) where they differ by channel.

    Returns:
        (B, S, h, w).
    """
    if coefficients.ndim == 3:
        coefficients = coefficients[:, :, None]
    weights = (coefficients.to(scores.dtype) * scores[:, None]).sum(-1).softmax(-1)
    cells = weights.to(activation.dtype) @ activation.flatten(2)
    return cells.reshape(*cells.shape[:2], *activation.shape[2:])


def prepare(context: BatchContext, _settings: None) -> Cam:
    """The masked forward passes, which serve all targets."""
    model, images, activation = context.model, context.images, context.activation
    shared = (context.memory, context.registration)
    scores = context.by_class(
        "scorecam", lambda whole: masked_logits(model, images, activation, whole.classes, *shared), axis=2
    )
    # Inside the graph means here: each masked image weighs the references by what it says of them.
    present = context.present[:, None].expand_as(scores[..., 1:])
    weights = reference_weights(scores[..., 1:], present, "probability_detached")
    return Cam(partial(scorecam, context.activation, scores), weights)


SCORECAM = Method(
    "scorecam",
    "sum_channels softmax(s of images masked by each channel) A",
    prepare,
    cost="D forward passes",
    masked_passes=True,
)
