"""A classifier that looks at one region of its images and at nothing else."""

import torch
from torch import Tensor

from finer_ray.models.cut import Cut

# The region is cell (1, 2) of a grid of 4 x 4; its index, and the pixels of a 64 x 64 image.
HOT = 1 * 4 + 2
ROWS, COLUMNS = slice(16, 32), slice(32, 48)


class Planted:
    """Three classes; the first one's logit grows with the contrast inside the region, the second one's falls."""

    class_count = 3
    activation = "softmax"

    def images(self, count: int = 2) -> Tensor:
        """Stripes two pixels wide, the same everywhere: nothing but the model tells the regions apart."""
        stripes = (torch.arange(64) // 2 % 2 * 2.0 - 1).expand(count, 3, 64, 64)
        return stripes * torch.linspace(1, 1.2, count)[:, None, None, None]

    def differentiable(self, images: Tensor) -> Tensor:
        """Logits (B, 3), with a graph."""
        contrast = (images[:, :, ROWS, COLUMNS] ** 2).mean((1, 2, 3))
        return torch.stack([4 * contrast - 2, 2 - 4 * contrast, torch.zeros_like(contrast)], dim=1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, 3)."""
        return self.differentiable(images)

    def head(self, embedding: Tensor) -> Tensor:
        """The embedding is the logits."""
        return embedding

    def class_weights(self) -> Tensor:
        """(3, 3)."""
        return torch.eye(3)

    def cut(self, images: Tensor) -> Cut:
        """The CAM layer is the energy of each cell."""
        energy = torch.nn.functional.avg_pool2d((images**2).mean(1, keepdim=True), 16).requires_grad_()
        with torch.enable_grad():
            contrast = energy[:, 0, 1, 2]
            logits = torch.stack([4 * contrast - 2, 2 - 4 * contrast, torch.zeros_like(contrast)], dim=1)
        return Cut(energy, logits, lambda cells: cells)
