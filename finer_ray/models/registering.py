"""Measuring the registration of a model: where in its input the cells of its CAM layer look.

A cell looks where its activations' derivatives lie. With v a random sign for each channel,

    g(p) = d (v . A_cell) / d pixel p,    centre = sum_p p g(p)^2 / sum_p g(p)^2,

which is in the mean the centroid of the squared gradient of all channels (the effective receptive field, Luo et al.
2016). The stride is counted, offset = mean of centre - stride * cell, over cells in the middle of the grid, where the
border is far, and over inputs of random pixels. These need no photos, and give what photos give (docs/method.md). A
centre does not follow from paddings: it depends on weights, too.
"""

import math

import torch
from torch import Tensor, nn

from finer_ray.images.transform import Transform
from finer_ray.models.split import Split
from finer_ray.saliency.registration import Registration

# Standard error, in pixels, from which on no more inputs are tried; how many there are at least and at most; and what
# part of a pixel an offset is given to, below which it means nothing and machines differ.
ENOUGH, LEAST, MOST, PART = 1.0, 8, 36, 0.25
# Pixels by which an input is made larger to see how many cells come with them: all strides that are powers of two
# divide them.
LARGER = 256


def measure(split: Split, transform: Transform, grid: tuple[int, int]) -> Registration:
    """The registration of a model's CAM layer.

    A patch of a ViT is its own centre. What gives no finite gradients is taken for stretched.

    Args:
        split: on the CPU, in float32.
        transform: of its inputs.
        grid: (h, w) of its CAM layer.

    Returns:
        The same for the same model: the inputs are always the same.
    """
    patch = _own_patch(split)
    if patch is not None and grid == (transform.size[0] // patch[0], transform.size[1] // patch[1]):
        down, right = patch
        return Registration(((down - 1) / 2, (right - 1) / 2), (float(down), float(right)))
    stride = _strides(split, transform.size, grid)
    generator = torch.Generator().manual_seed(0)
    cells = torch.cartesian_prod(*(_middle(count) for count in grid))
    step, found = torch.tensor(stride), list[Tensor]()
    while len(found) < MOST:
        # One at a time: a graph down to the pixels takes much more memory than a batch that is explained.
        found += [centre(split, _noise(transform, generator), cell, generator) - cell * step for cell in cells]
        offsets = torch.stack(found)
        offsets = offsets[offsets.isfinite().all(1)]
        if len(found) >= LEAST and (offsets.std(0) / len(offsets) ** 0.5).max() < ENOUGH:
            break
    if not len(offsets):
        return Registration.stretched(transform.size, grid)
    # 0.0 is added so that no offset is -0.0.
    down, right = ((offsets.mean(0) / PART).round() * PART + 0.0).tolist()
    return Registration((down, right), stride)


def centre(split: Split, image: Tensor, cell: Tensor, generator: torch.Generator) -> Tensor:
    """Where a cell looks.

    Args:
        split: whose CAM layer it is of.
        image: (1, 3, H, W), normalised.
        cell: (y, x) on the grid.
        generator: of the channels' signs.

    Returns:
        (y, x) float64, pixels: the centroid of the squared gradient; NaN where there is no gradient.
    """
    with torch.enable_grad():
        image = image.clone().requires_grad_()
        activation = _cells(split, image)[0, :, cell[0], cell[1]]
        signs = torch.randint(2, activation.shape, generator=generator) * 2.0 - 1
        (gradient,) = torch.autograd.grad(activation @ signs, image)
    mass = gradient[0].double().square().sum(0)
    return torch.stack([side @ torch.arange(len(side)).double() / side.sum() for side in (mass.sum(1), mass.sum(0))])


def _own_patch(split: Split) -> tuple[int, int] | None:
    """A ViT's patch, where each is embedded by itself, and not by convolutions that overlap."""
    first = next((layer for layer in split.modules() if isinstance(layer, nn.Conv2d | nn.Linear)), None)
    if isinstance(first, nn.Conv2d) and not first.kernel_size == first.stride == split.patch:
        return None
    return split.patch


def _cells(split: Split, images: Tensor) -> Tensor:
    """The CAM layer's activation, (B, D, h, w)."""
    return split.grid(split.trunk(images)[0], (images.shape[2], images.shape[3]))


def _noise(transform: Transform, generator: torch.Generator) -> Tensor:
    """An input of random pixels, (1, 3, H, W), normalised."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    noise: Tensor = (torch.rand((1, 3, *transform.size), generator=generator) - mean) / std
    return noise


def _middle(count: int) -> Tensor:
    """The cells nearest to the middle of an axis: three of an odd number, two of an even one."""
    middle = (count - 1) / 2
    return torch.arange(max(0, math.ceil(middle - 1)), min(count - 1, math.floor(middle + 1)) + 1)


def _strides(split: Split, size: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """Pixels from cell to cell, (y, x): input / cells, unless padding and rounding make another number of cells.

    Where that is no power of two it is counted, by how many cells a larger input has more; of a model that takes no
    larger one it stays.
    """
    plain = tuple(side / cells for side, cells in zip(size, grid, strict=True))
    if all(math.log2(one).is_integer() for one in plain):
        return plain[0], plain[1]
    try:
        with torch.inference_mode():
            larger = _cells(split, torch.zeros(1, 3, *(side + LARGER for side in size))).shape[2:]
        down, right = (float(round(LARGER / (more - cells))) for more, cells in zip(larger, grid, strict=True))
    except (RuntimeError, AssertionError, ValueError, ZeroDivisionError):
        return plain[0], plain[1]
    return down, right
