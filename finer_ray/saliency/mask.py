"""Mask (Fong and Vedaldi 2017): the smallest region whose blurring takes the objective away, found by gradient descent.

    x(m) = m * image + (1 - m) * blurred image,    m = smooth(upsample(low)), low in [0, 1] on ceil(H/8) x ceil(W/8)
    low  = argmin sum_j a_j p_j(x(m)) + l1 * sum |1 - low| + tv * sum |grad low|^beta
    map  = 1 - m, averaged around the centres of the CAM grid's cells

Both images are shifted alike at every step (jitter), and cut out of ones stretched by so many pixels, as in the
authors' code. `low` begins as the smallest centred blurred circle that takes away 99 % of what blurring the whole
image takes away; as no circle at all where blurring the image does not lower the objective. It is kept in [0, 1] by
clamping after every step.
"""

from collections.abc import Callable
from functools import partial
from math import ceil, hypot

from pydantic import Field

from finer_ray.config.section import AboveZero, NonNegative, Positive, Section, Weight
from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.budget import GRAPH_FOOTPRINT, in_flight
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.objective import choice_probabilities
from finer_ray.saliency.registration import Registration, pool
from finer_ray.saliency.split_classifier import SplitClassifier

Logits = Callable[[Tensor], Tensor]

# Pixels from one radius to the next of the circles that the descent may begin with, and the share of the whole
# blurred image's effect that a circle must reach.
RADIUS_STEP, EFFECT = 5, 0.99


class Mask(Section):
    """Mask (Fong and Vedaldi 2017): the smallest region whose blurring takes the objective away. Lengths in pixels."""

    # Defaults of the paper's implementation details and, alike, of the authors' code.
    steps: Positive = Field(300, description="of gradient descent: as many passes, there and back, per image and map")
    rate: AboveZero = Field(0.1, description="learning rate of Adam")
    l1: Weight = Field(1e-4, description="weight of the deleted area")
    tv: Weight = Field(1e-2, description="weight of the total variation")
    beta: AboveZero = Field(3.0, description="exponent of the total variation")
    scale: Positive = Field(8, description="per cell of the low-resolution mask")
    smooth: Weight = Field(5.0, description="standard deviation of the blur of the mask")
    jitter: NonNegative = Field(4, description="random shifts are less than this")
    blur: Weight = Field(10.0, description="standard deviation of the blur of the image")
    seed: int = Field(0, description="of the shifts, the same for every image")

    def shifts(self) -> list[list[int]]:
        """Down and to the right, for every step."""
        generator = torch.Generator().manual_seed(self.seed)
        shifts: list[list[int]] = torch.randint(max(1, self.jitter), (self.steps, 2), generator=generator).tolist()
        return shifts


def circle_probabilities(
    model: SplitClassifier, images: Tensor, classes: Tensor, settings: Mask, memory: int
) -> Tensor:
    """Probabilities of every image with each of `circles` blurred.

    Args:
        model: the classifier.
        images: (B, 3, H, W), normalised.
        classes: (B, J) int64; -1 means none.
        settings: of the blurring.
        memory: bytes that masked images may take, see `finer_ray.saliency.budget`.

    Returns:
        (B, R, J).
    """
    masks = circles((images.shape[2], images.shape[3]), settings).to(images, non_blocking=True)[:, None]
    step, found = in_flight(images, memory), []
    for image, behind, wanted in zip(images, blur(images, settings.blur), classes, strict=True):
        mixed = (behind.lerp(image, part) for part in masks.split(step))
        found += [choice_probabilities(model, model(part), wanted.expand(len(part), -1)) for part in mixed]
    return torch.cat(found).reshape(len(images), len(masks), -1)


def perturbation(
    model: SplitClassifier,
    logits: Logits,
    images: Tensor,
    classes: Tensor,
    starts: Tensor,
    grid: tuple[int, int],
    settings: Mask,
    memory: int,
    registration: Registration | None,
    coefficients: Tensor,
) -> Tensor:
    """1 - m for every image and objective, each found by a descent of its own.

    Args:
        model: the classifier.
        logits: its answers with a graph, (n, 3, H, W) to (n, C).
        images, classes: as of `circle_probabilities`.
        starts: what it gives, (B, R, J).
        grid: (h, w) of the maps.
        settings: of the descent.
        memory: bytes that images and the graph may take, see `finer_ray.saliency.budget`.
        registration: of the maps; None: stretched.
        coefficients: a_j, (B, S, J).

    Returns:
        (B, S, h, w) in [0, 1].
    """
    batch, objectives = coefficients.shape[:2]
    low = first_masks(starts, coefficients.to(starts.dtype), images, settings)
    owners = torch.arange(batch, device=images.device).repeat_interleave(objectives)
    step, maps = in_flight(images, memory, GRAPH_FOOTPRINT), []
    for rows in torch.arange(len(owners), device=images.device).split(step):
        owner = owners[rows]
        wanted, weights = classes[owner], coefficients.flatten(0, 1)[rows]

        def objective(masked: Tensor, wanted: Tensor = wanted, weights: Tensor = weights) -> Tensor:
            chances = choice_probabilities(model, logits(masked), wanted)
            return (weights.to(chances.dtype) * chances).sum(1)

        found = descend(objective, images[owner], low.flatten(0, 1)[rows], settings)
        maps.append(pool(1 - found, grid, registration))
    return torch.cat(maps).reshape(batch, objectives, *grid)


def descend(objective: Callable[[Tensor], Tensor], images: Tensor, low: Tensor, settings: Mask) -> Tensor:
    """The masks m of n images after the last step.

    Args:
        objective: (n, 3, H, W) to the score of each, (n,), with a graph.
        images: (n, 3, H, W), normalised.
        low: where they begin, (n, h', w') in [0, 1].
        settings: of the descent.

    Returns:
        (n, H, W) in [0, 1].
    """
    height, width = images.shape[2:]
    size, room = (height, width), (height + settings.jitter, width + settings.jitter)
    sharp = functional.interpolate(images, size=room, mode="bilinear", align_corners=False)
    blurred = blur(sharp, settings.blur)
    cells = (low.shape[1], low.shape[2])
    rows, columns = (matrix.to(images, non_blocking=True) for matrix in enlarging(cells, size, settings.smooth))
    with torch.enable_grad():
        low = low.clone().requires_grad_()
        optimiser = torch.optim.Adam([low], lr=settings.rate)
        for down, right in settings.shifts():
            window = (..., slice(down, down + height), slice(right, right + width))
            masks = (rows @ low @ columns.T)[:, None]
            score = objective(blurred[window].lerp(sharp[window], masks)).sum()
            penalty = settings.l1 * (1 - low).abs().sum() + settings.tv * variation(low, settings.beta)
            (low.grad,) = torch.autograd.grad(score + penalty, low)
            optimiser.step()
            low.data.clamp_(0, 1)
    return (rows @ low.detach() @ columns.T).clamp(0, 1)


def first_masks(starts: Tensor, coefficients: Tensor, images: Tensor, settings: Mask) -> Tensor:
    """Where the descents begin.

    Args:
        starts: what `circle_probabilities` gives, (B, R, J).
        coefficients: a_j, (B, S, J).
        images: (B, 3, H, W), for size and dtype.

    Returns:
        (B, S, h', w') in [0, 1].
    """
    scores = coefficients @ starts.transpose(1, 2)
    whole, gone = scores[..., :1], scores[..., -1:]
    enough = scores <= gone + (1 - EFFECT) * (whole - gone).abs()
    masks = circles((images.shape[2], images.shape[3]), settings).to(images, non_blocking=True)
    cells = [ceil(side / settings.scale) for side in images.shape[2:]]
    return functional.interpolate(masks[:, None], size=cells, mode="area")[:, 0][enough.byte().argmax(-1)]


def circles(size: tuple[int, int], settings: Mask) -> Tensor:
    """Masks with a blurred circle taken out of the middle, (R, H, W) in [0, 1]: from none of the image to all of it."""
    height, width = size
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = (y[:, None] ** 2 + x**2).double().sqrt()
    radii = torch.arange(0, ceil(hypot(*size) / 2) + 1 + RADIUS_STEP, RADIUS_STEP)
    inside = (distance < radii[:, None, None]).double()
    return (1 - blur(inside, settings.blur)).clamp(0, 1)


def variation(low: Tensor, beta: float) -> Tensor:
    """Sum over cells of the length of the mask's gradient (forward differences) to the power of beta."""
    down = functional.pad(low.diff(dim=1), (0, 0, 0, 1))
    right = functional.pad(low.diff(dim=2), (0, 1))
    # Kept off zero, where exponents below 2 have no derivative.
    return (down**2 + right**2).clamp(min=1e-10).pow(beta / 2).sum()


def smoothing(size: tuple[int, int], deviation: float) -> tuple[Tensor, Tensor]:
    """Gaussian blur as one matrix for each axis, (H, H) and (W, W) float64: blurred = rows @ image @ columns^T.

    Weights are those of the pixels inside, with sum 1; a deviation of 0 blurs nothing.
    """
    rows, columns = (_weights(side, deviation) for side in size)
    return rows, columns


def blur(images: Tensor, deviation: float) -> Tensor:
    """(..., H, W) blurred."""
    rows, columns = (
        matrix.to(images, non_blocking=True) for matrix in smoothing((images.shape[-2], images.shape[-1]), deviation)
    )
    with torch.autocast(images.device.type, enabled=False):
        blurred: Tensor = rows @ images @ columns.T
    return blurred


def enlarging(cells: tuple[int, int], size: tuple[int, int], deviation: float) -> tuple[Tensor, Tensor]:
    """From `low` to m as one matrix for each axis, (H, h') and (W, w') float64: nearest cells, then a blur."""
    near = (functional.one_hot(torch.arange(s) * c // s, c).double() for c, s in zip(cells, size, strict=True))
    rows, columns = (blurring @ part for blurring, part in zip(smoothing(size, deviation), near, strict=True))
    return rows, columns


def _weights(side: int, deviation: float) -> Tensor:
    if deviation == 0:
        return torch.eye(side, dtype=torch.float64)
    places = torch.arange(side, dtype=torch.float64) / deviation
    weights = (-((places[:, None] - places) ** 2) / 2).exp()
    return weights / weights.sum(1, keepdim=True)


def prepare(context: BatchContext, settings: Mask) -> Cam:
    """Where the descents begin; each objective has a descent of its own."""
    model, images, classes = context.model, context.images, context.classes
    starts = context.by_class(
        "mask", lambda whole: circle_probabilities(model, images, whole.classes, settings, whole.memory), axis=2
    )
    # A descent runs the model where maps are drawn, which is in full precision: but the model in the caller's.
    kind = images.device.type
    precision = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
    logits, shared = precision(model.differentiable), (images, classes, starts, context.grid, settings)
    raw = partial(perturbation, model, logits, *shared, context.memory, context.registration)
    # No derivative by the logits is taken: with `weighting: probability`, too, the shares are constants.
    return Cam(raw, context.weights("probability_detached"))


MASK = Method(
    "mask",
    "the smallest region whose blurring takes the objective away",
    prepare,
    Mask(),
    cost="300 descents",
    masked_passes=True,
)
