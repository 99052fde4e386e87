"""Augmentation: training pictures, moved and lit otherwise, before other backgrounds."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# How far the hue of a background moves: standard deviation of a matrix between channels.
HUE = 0.25


def augmented(
    pixels: NDArray[np.uint8], groups: NDArray[np.int64], side: int, rng: np.random.Generator, zoomed: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pictures as inputs: mirrored, shifted and scaled a little, slightly lighter or darker, and half of them before a
    background of another hue and light. Nothing here moves a hue of the bird.

    Args:
        pixels: (B, H, W, 4) RGB and, in the last channel, where the bird is (not 0).
        groups: (B,), from 0 on; pictures of a group are changed alike.
        side: of the inputs, pixels.
        rng: of all that is random.
        zoomed: share of groups that are looked at more closely, up to where the bird fills the input.

    Returns:
        (B, 3, side, side) float32 in [-1, 1], and (B, 1, side, side), above 0 where the bird is.
    """
    count = int(groups.max()) + 1
    scale, flip = rng.uniform(0.9, 1.05, count), rng.choice([-1.0, 1.0], count)
    shift = rng.uniform(-0.06, 0.06, (count, 2))
    if zoomed:
        scale, shift = _closer(pixels[..., 3] > 0, groups, scale, shift, zoomed, rng)
    affine = np.zeros((count, 2, 3))
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = scale * flip, scale, shift
    gain, lift = rng.uniform(0.85, 1.15, (count, 1, 1, 1)), rng.uniform(-0.08, 0.08, (count, 1, 1, 1))
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    birds = (planes[:, 3:] > 0).float()
    images = _before_others(planes[:, :3] / 127.5 - 1, birds > 0, groups, rng)
    grid = functional.affine_grid(_floats(affine[groups]), [len(pixels), 4, side, side], align_corners=False)
    moved = functional.grid_sample(torch.cat([images, birds], 1), grid, padding_mode="reflection", align_corners=False)
    return (moved[:, :3] * _floats(gain[groups]) + _floats(lift[groups])).clamp(-1, 1), moved[:, 3:]


def _closer(
    birds: NDArray[np.bool_],
    groups: NDArray[np.int64],
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
    zoomed: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift of each group, some of them between what they were and what shows the bird alone.

    Args:
        birds: (B, H, W); groups without a bird stay as they are.
        groups: (B,).
        scale, shift: (G,) and (G, 2) along x and y, in half sides.
        zoomed: share of groups.
        rng: of which groups, and how close.
    """
    scale, shift = scale.copy(), shift.copy()
    closeness = rng.random(len(scale)) * (rng.random(len(scale)) < zoomed)
    for number, first in enumerate(np.unique(groups, return_index=True)[1]):
        if not birds[first].any():
            continue
        ends = [(seen.argmax(), len(seen) - seen[::-1].argmax()) for seen in (birds[first].any(0), birds[first].any(1))]
        low, high = (2 * np.array(ends) / birds.shape[1] - 1).T
        nearest = min(scale[number], 1.1 * float((high - low).max()) / 2)
        share = closeness[number]
        scale[number] += share * (nearest - scale[number])
        shift[number] = share * (low + high) / 2 + (1 - share) * shift[number]
    return scale, shift


def _before_others(images: Tensor, bird: Tensor, groups: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], of half the groups with another hue and light where no bird is."""
    count = int(groups.max()) + 1
    mix = np.eye(3) + rng.normal(0, HUE, (count, 3, 3))
    lift, chosen = rng.uniform(-0.25, 0.25, (count, 3, 1, 1)), rng.random((count, 1, 1, 1)) < 0.5
    other = torch.einsum("bij,bjhw->bihw", _floats(mix[groups]), images) + _floats(lift[groups])
    return torch.where(bird | ~torch.from_numpy(chosen[groups]), images, other.clamp(-1, 1))


def _floats(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
