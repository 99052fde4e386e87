"""Patches: which of them the image tower is shown in training, and what each of them shows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchDropout(nn.Module):
    """Drops patches at random, the same ones of all pictures of a group; takes the place of open_clip's own.

    Args:
        share: of patches to drop, 0 to 1.

    Attributes:
        groups: (B,) int64, the group of each picture of the coming batch.
        kept: (B, n) int64, the patches that the last batch kept, row by row.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.groups = self.kept = torch.zeros(0, dtype=torch.int64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1 + N, D), the class token first, to (B, 1 + n, D)."""
        count = tokens.shape[1] - 1
        noise = torch.rand(int(self.groups.max()) + 1, count)
        kept = noise.topk(max(1, round(count * (1 - self.share))), dim=1).indices.sort(1).values[self.groups]
        self.kept = kept
        patches = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        return torch.cat([tokens[:, :1], patches], dim=1)


@dataclass(frozen=True)
class Shown:
    """What the patches of a batch show.

    Attributes:
        background: (B, n) bool; no pixel of the bird.
        alike: (B, n) bool; in all pictures of the group the same pixels.
    """

    background: Tensor
    alike: Tensor


def shown(inputs: Tensor, birds: Tensor, groups: Tensor, kept: Tensor, size: int) -> Shown:
    """What patches show.

    Args:
        inputs: (B, 3, H, W).
        birds: (B, 1, H, W), above 0 where the bird is.
        groups: (B,) int64; pictures of a group follow each other.
        kept: (B, n) int64, the patches that are asked about.
        size: of a patch, pixels.
    """
    first = torch.searchsorted(groups, groups)
    apart = (inputs - inputs[first]).abs().amax(1, keepdim=True)
    farthest = torch.segment_reduce(_of_patches(apart, size), "max", lengths=torch.bincount(groups))[groups]
    return Shown(_of_patches(birds, size).gather(1, kept) == 0, farthest.gather(1, kept) == 0)


def _of_patches(planes: Tensor, size: int) -> Tensor:
    """The maximum of each patch, (B, 1, H, W) to (B, N)."""
    return functional.max_pool2d(planes, size).flatten(1)
