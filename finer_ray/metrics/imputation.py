"""Noisy linear imputation (ROAD, Rong et al. 2022): pixels that are gone take the weighted mean of their neighbours.

    x_i = sum over neighbours j of w_j x_j / sum of w_j,    w = 1/6 beside, above and below, 1/12 along the diagonals

for every pixel i that is gone, where neighbours that are gone, too, are as unknown as it is: a linear system. It is
symmetric and positive definite, and solved by conjugate gradients, on the device where the images are, in a number of
steps that their size decides, so that nothing waits; on a CPU, which need not, until the error is small. The noise is
the authors', too: without it the model could tell by their smoothness which pixels are gone.
"""

from math import ceil

from finer_ray.lazy import Tensor, functional, torch

# Of the noise, in units of normalised pixels, as in the authors' code.
NOISE = 0.01
# Of conjugate gradients, as a multiple of the longer side: values must travel that far. With 80 % of 224 x 224 pixels
# gone in one piece, the largest error is then 0.0006 (0.27 at half as many steps), with 20 % gone none is seen.
STEPS = 2
# On a CPU, steps after which images are left out whose residual's norm is below this in every channel: of photos of 224
# pixels errors were then at most 0.0001, after half of all steps on average.
CHECK, SMALL = 16, 2e-5


def impute(images: Tensor, gone: Tensor, noise: float = NOISE) -> Tensor:
    """Images whose pixels that are gone follow from those that are left.

    Args:
        images: (n, 3, H, W) float, normalised.
        gone: (n, H, W) bool, of which pixels nothing is known; where all are gone the images come back as zeros.
        noise: standard deviation of what is added to these pixels, the same in every image.

    Returns:
        (n, 3, H, W) of the images' dtype.
    """
    unknown = gone[:, None].to(images.dtype)
    known = images * (1 - unknown)
    start = _from_coarse(known, 1 - unknown)
    weights = _neighbours(torch.ones_like(unknown))
    found = _solve(unknown, weights, _neighbours(known) * unknown, start * unknown)
    generator = torch.Generator().manual_seed(0)
    added = torch.randn(images.shape[1:], generator=generator).to(images, non_blocking=True)
    return known + unknown * (found + noise * added)


def _neighbours(values: Tensor) -> Tensor:
    """Sums of the eight neighbours by their weights, none beyond the border: as a square of ones, and a cross again."""
    above = functional.pad(values, (1, 1, 1, 1))
    across = above[..., :-2] + above[..., 2:]
    beside, middle = across[..., 1:-1, :], above[..., 1:-1]
    upright = middle[..., :-2, :] + middle[..., 2:, :]
    diagonal = across[..., :-2, :] + across[..., 2:, :]
    return (beside + upright) / 6 + diagonal / 12


def _solve(unknown: Tensor, weights: Tensor, right: Tensor, found: Tensor) -> Tensor:
    """Conjugate gradients for (weights - neighbours) x = right, at the unknown pixels alone, each channel by itself."""

    def apply(values: Tensor) -> Tensor:
        return unknown * (weights * values - _neighbours(values))

    def product(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum((2, 3), keepdim=True)

    tiny = torch.finfo(found.dtype).tiny
    rest = right - apply(found)
    direction, size = rest, product(rest, rest)
    solved, left = found.clone(), torch.arange(len(found), device=found.device)
    for step in range(ceil(STEPS * max(unknown.shape[2:]))):
        if step % CHECK == 0 and found.device.type == "cpu":
            going = (size > SMALL**2).flatten(1).any(1)
            solved[left] = found
            left = left[going]
            if not len(left):
                return solved
            unknown, weights, found, rest, direction, size = (
                part[going] for part in (unknown, weights, found, rest, direction, size)
            )
        changed = apply(direction)
        length = size / product(direction, changed).clamp(min=tiny)
        found, rest = found + length * direction, rest - length * changed
        before, size = size, product(rest, rest)
        direction = rest + size / before.clamp(min=tiny) * direction
    solved[left] = found
    return solved


def _from_coarse(known: Tensor, share: Tensor) -> Tensor:
    """Known pixels, zero elsewhere, and 1 where they are: means of ever larger squares where nothing is nearer."""
    height, width = known.shape[2:]
    if height == 1 and width == 1:
        return known
    halves = (functional.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in (known, share))
    total, part = halves
    there = part > 0
    mean = torch.where(there, total / part.where(there, torch.ones_like(part)), torch.zeros_like(total))
    coarse = _from_coarse(mean, there.to(share.dtype))
    larger = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(share > 0, known, larger)
