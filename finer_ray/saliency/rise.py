"""RISE (Petsiuk et al. 2018): what the model says of the image under random masks, as a basis of maps.

    S_j = 1 / (N E[m]) * sum over N masks m of p_j(image * m) m,    E[m] = keep,    map = ReLU(sum_j a_j S_j)

A mask is a grid of cells that are kept with probability `keep`, upsampled bilinearly from s x s cells to (s + 1) cells
of ceil(H / s) x ceil(W / s) pixels, and cropped to the image at a random place less than a cell away (the paper's
mask generation; rounded up, as in the authors' code). Masked pixels take the colour that normalisation maps to zero.
S is averaged over the areas of the CAM grid; that is linear, so that the masks are averaged instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.objective import choice_probabilities


@dataclass(frozen=True)
class Rise:
    """Settings; defaults of the paper's experiments.

    Attributes:
        masks: N; 4000 for VGG-16, 8000 for ResNet-50 in the paper.
        cells: s, along each side.
        keep: probability that a cell is kept.
        seed: of the masks, which are the same for every image.
    """

    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    seed: int = 0

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


@torch.no_grad()
def rise_basis(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Tensor,
    count: int,
    grid: tuple[int, int],
    settings: Rise,
    memory: int,
) -> Tensor:
    """The maps S_j.

    Args:
        logits: the model, (n, 3, H, W) to (n, C).
        images: (B, 3, H, W), normalised.
        classes: (B, J) int64; -1 means none.
        count: how many logits are classes, see `choice_probabilities`.
        grid: (h, w) of the maps.
        settings: of the masks.
        memory: bytes that masked images may take, see `finer_ray.saliency.budget`.

    Returns:
        (B, J, h, w) float32 (float64 for float64 images), non-negative.
    """
    cells, shifts = (drawn.to(images.device, non_blocking=True) for drawn in settings.draw())
    size, step = (images.shape[2], images.shape[3]), in_flight(images, memory)
    total = torch.zeros(
        (*classes.shape, *grid), dtype=torch.promote_types(images.dtype, torch.float32), device=images.device
    )
    for first in range(0, len(cells), step):
        masks = smooth_masks(cells[first : first + step], shifts[first : first + step], size)
        coarse = functional.adaptive_avg_pool2d(masks, grid).to(total.dtype).flatten(1)
        # One image at a time: its masked forwards are the same whatever else is in the batch.
        for image, wanted, sums in zip(images, classes, total, strict=True):
            masked = image * masks[:, None].to(image.dtype)
            found = choice_probabilities(logits(masked), wanted.expand(len(masks), -1), count)
            # Thousands of terms: half precision is for the model alone.
            with torch.autocast(images.device.type, enabled=False):
                sums += (found.to(total.dtype).T @ coarse).unflatten(1, grid)
    return total / (settings.masks * settings.keep)
