"""The cells of a module's output: which of its values belong to which place of the image.

Encoders give maps (B, D, h, w), maps with channels last (B, h, w, D), or tokens (B, prefix + h*w, D) in reading order.
A grid has the aspect of the images, by which these are told apart.
"""

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

# Class, distillation and register tokens that are looked for where the encoder does not tell their number.
MOST_PREFIX = 16


@lru_cache(maxsize=1024)
def token_grid(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of so many patch tokens.

    Args:
        count: of tokens.
        size: (H, W) of the images, pixels.

    Returns:
        The h * w = count of the images' aspect, up to a cell; None where there is none.

    >>> token_grid(24, (64, 96)), token_grid(23, (64, 96))
    ((4, 6), None)
    """
    pairs = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
    fitting = [pair for pair in pairs if _fits(pair, size)]
    return min(fitting, key=lambda pair: _misfit(pair, size), default=None)


@lru_cache(maxsize=1024)
def prefix_tokens(count: int, size: tuple[int, int], usual: int) -> int | None:
    """How many tokens come before the patch tokens.

    Args:
        count: of all tokens.
        size: (H, W) of the images, pixels.
        usual: as many as most of the encoder's modules have.

    Returns:
        The usual number, none, or the smallest that leaves a grid of exactly the images' aspect; else the usual number
        if it leaves one of about that aspect; else None.
    """
    tried: list[int] = [usual, *range(MOST_PREFIX + 1)]
    for prefix in tried:
        grid = token_grid(count - prefix, size) if prefix < count else None
        if grid is not None and grid[0] * size[1] == grid[1] * size[0]:
            return prefix
    return usual if usual < count and token_grid(count - usual, size) else None


def cells(values: Tensor, size: tuple[int, int], prefix: int = 0, channels_last: bool = False) -> Tensor | None:
    """A module's output, or its gradient, as (B, D, h, w).

    Args:
        values: (B, D, h, w), (B, h, w, D) or (B, T, D).
        size: (H, W) of the images, pixels.
        prefix: how many tokens usually come before the patch tokens; they are dropped.
        channels_last: of a map that could be read in both ways.

    Returns:
        None where there is no such grid.
    """
    if values.ndim == 3:
        first = prefix_tokens(values.shape[1], size, prefix)
        grid = None if first is None else token_grid(values.shape[1] - first, size)
        found = None if grid is None else values[:, first:].transpose(1, 2).unflatten(2, grid)
    elif values.ndim == 4:
        turned = values.permute(0, 3, 1, 2)
        ways = (turned, values) if channels_last else (values, turned)
        fitting = [way for way in ways if _fits(way.shape[2:], size)]
        found = min(fitting, key=lambda way: _misfit(way.shape[2:], size), default=None)
    else:
        found = None
    return found


def _fits(grid: Sequence[int], size: tuple[int, int]) -> bool:
    """Whether a grid is no finer than the pixels, and has their aspect up to a cell."""
    (h, w), (height, width) = grid, size
    return h <= height and w <= width and abs(h * width - w * height) <= max(height, width)


def _misfit(grid: Sequence[int], size: tuple[int, int]) -> int:
    return abs(grid[0] * size[1] - grid[1] * size[0])
