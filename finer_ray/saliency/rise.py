"""RISE (Petsiuk et al. 2018): what the model says of the image under random masks, as a basis of maps.

    S_j = 1 / (N E[m]) * sum over N masks m of p_j(image * m) m,    E[m] = keep,    map = ReLU(sum_j a_j S_j)

A mask is a grid of cells that are kept with probability `keep`, upsampled bilinearly from s x s cells to (s + 1) cells
of ceil(H / s) x ceil(W / s) pixels, and cropped to the image at a random place less than a cell away (the paper's
mask generation; rounded up, as in the authors' code). Masked pixels take the colour that normalisation maps to zero.
S is averaged around the centres of the CAM grid's cells; that is linear, so that the masks are averaged instead.
"""

from functools import partial
from typing import Annotated

from pydantic import Field

from finer_ray.config.section import Positive, Section
from finer_ray.lazy import Tensor, functional, torch
from finer_ray.saliency.aggregation import linear
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.objective import choice_probabilities, wide
from finer_ray.saliency.registration import Registration, pool
from finer_ray.saliency.split_classifier import SplitClassifier


class Rise(Section):
    """RISE (Petsiuk et al. 2018): what the model says of the image under random masks."""

    masks: Positive = Field(4000, description="forward passes per image; the paper takes 4000 to 8000")
    cells: Annotated[int, Field(ge=1, le=1024)] = Field(7, description="of a mask along each side")
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.5, description="probability that a cell is kept")
    seed: int = Field(0, description="of the masks, the same for every image")

    def draw(self) -> tuple[Tensor, Tensor]:
        """Cells (N, s, s) float of 0 and 1, and shifts (N, 2) in [0, 1) of a cell, downwards and to the right."""
        generator = torch.Generator().manual_seed(self.seed)
        cells = torch.rand((self.masks, self.cells, self.cells), generator=generator) < self.keep
        return cells.float(), torch.rand((self.masks, 2), generator=generator)


def smooth_masks(cells: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks in the image's size.

    Args:
        cells: (n, s, s) float.
        shifts: (n, 2) in [0, 1).
        size: (H, W).

    Returns:
        (n, H, W) in [0, 1].
    """
    count = cells.shape[1]
    height, width = (-(-side // count) for side in size)
    larger = functional.interpolate(
        cells[:, None], size=((count + 1) * height, (count + 1) * width), mode="bilinear", align_corners=False
    )[:, 0]
    steps = zip(shifts.unbind(1), (height, width), size, strict=True)
    rows, columns = (
        (shift * step).long()[:, None] + torch.arange(side, device=cells.device) for shift, step, side in steps
    )
    masks: Tensor = larger[
        torch.arange(len(cells), device=cells.device)[:, None, None], rows[:, :, None], columns[:, None]
    ]
    return masks


def rise_basis(
    model: SplitClassifier,
    images: Tensor,
    classes: Tensor,
    grid: tuple[int, int],
    settings: Rise,
    memory: int,
    registration: Registration | None = None,
) -> Tensor:
    """The maps S_j.

    Args:
        model: the classifier.
        images: (B, 3, H, W), normalised.
        classes: (B, J) int64; -1 means none.
        grid: (h, w) of the maps.
        settings: of the masks.
        memory: bytes that masked images may take, see `finer_ray.saliency.budget`.
        registration: of the maps; None: stretched.

    Returns:
        (B, J, h, w) float32 (float64 for float64 images), non-negative.
    """
    cells, shifts = (drawn.to(images.device, non_blocking=True) for drawn in settings.draw())
    size, step = (images.shape[2], images.shape[3]), in_flight(images, memory)
    total = wide(images.new_zeros((*classes.shape, *grid)))
    for first in range(0, len(cells), step):
        masks = smooth_masks(cells[first : first + step], shifts[first : first + step], size)
        coarse = pool(masks, grid, registration).to(total.dtype).flatten(1)
        # One image at a time: its masked forwards are the same whatever else is in the batch.
        for image, wanted, sums in zip(images, classes, total, strict=True):
            masked = image * masks[:, None].to(image.dtype)
            found = choice_probabilities(model, model(masked), wanted.expand(len(masks), -1))
            # Thousands of terms: half precision is for the model alone.
            with torch.autocast(images.device.type, enabled=False):
                sums += (found.to(total.dtype).T @ coarse).unflatten(1, grid)
    return total / (settings.masks * settings.keep)


def prepare(context: BatchContext, settings: Rise) -> Cam:
    """The masked forward passes, which serve all targets."""
    shared = (context.grid, settings, context.memory, context.registration)
    basis = context.by_class("rise", lambda whole: rise_basis(whole.model, whole.images, whole.classes, *shared))
    # No derivative is taken: with `weighting: probability`, too, the shares are constants.
    return Cam(partial(linear, basis), context.weights("probability_detached"))


RISE = Method(
    "rise",
    "mean of random masks weighed by p of the masked image, on the grid",
    prepare,
    Rise(),
    cost="4000 forward passes",
    masked_passes=True,
)
