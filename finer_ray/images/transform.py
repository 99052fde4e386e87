"""The transform: from a photo to the backbone's input, as timm and open_clip make it for evaluation."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}

MAX_RESIZED_PIXELS = 2**26


@dataclass(frozen=True, slots=True)
class Transform:
    """Resize, then crop the centre; normalising is left to the model's device.

    >>> Transform(size=(224, 224), crop_pct=0.875).resized(640, 480)
    (341, 256)

    Attributes:
        size: (h, w) of the result, pixels.
        resize: `shortest` keeps the aspect ratio and crops, `squash` does neither.
        crop_pct: size of the crop over the size resized to, in (0, 1].
        interpolation: filter of the resize.
        mean, std: per channel, of values in [0, 1]; carried for whoever normalises.
    """

    size: tuple[int, int]
    resize: Literal["shortest", "squash"] = "shortest"
    crop_pct: float = 1.0
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB image as (h, w, 3) uint8; where it is smaller than the crop, black surrounds it."""
        return np.asarray(self._geometry(image, FILTERS[self.interpolation]), dtype=np.uint8)

    def apply_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask (height, width) in the image's geometry, (h, w) bool; False outside the image."""
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(self._geometry(image, Image.Resampling.NEAREST)) > 0

    def apply_box(self, box: tuple[float, float, float, float], width: int, height: int) -> NDArray[np.bool_]:
        """The pixels whose centres lie in a box (x1, y1, x2, y2 of the image), (h, w) bool."""
        wide, high = self.resized(width, height)
        left, top = self.corner(wide, high)
        x = (np.arange(self.size[1]) + left + 0.5) * (width / wide)
        y = (np.arange(self.size[0]) + top + 0.5) * (height / high)
        x1, y1, x2, y2 = box
        return ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None, :]

    def view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What the result shows of an image: x1, y1, x2, y2 as shares of its width and height; beyond 0 and 1 where
        black surrounds it."""
        wide, high = self.resized(width, height)
        left, top = self.corner(wide, high)
        return left / wide, top / high, (left + self.size[1]) / wide, (top + self.size[0]) / high

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize, before the crop."""
        tall, wide = (math.floor(side / self.crop_pct) for side in self.size)
        if self.resize == "squash":
            return wide, tall
        if tall == wide:
            # As torchvision's Resize(int): the shorter side exactly, the longer truncated.
            if width <= height:
                return wide, int(wide * height / width)
            return int(tall * width / height), tall
        # As timm's and open_clip's ResizeKeepRatio for targets that are not square.
        ratio = min(height / tall, width / wide)
        return round(width / ratio), round(height / ratio)

    def corner(self, wide: int, high: int) -> tuple[int, int]:
        """(left, top) of the crop in the image resized to (wide, high); negative where black is added there."""
        return _offset(wide, self.size[1]), _offset(high, self.size[0])

    def _geometry(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        wide, high = self.resized(*image.size)
        left, top = self.corner(wide, high)
        if wide * high > MAX_RESIZED_PIXELS:
            # Of an image that is hundreds of times as long as it is wide, only what the crop shows is resized.
            x, y = image.width / wide, image.height / high
            box = (left * x, top * y, (left + self.size[1]) * x, (top + self.size[0]) * y)
            return image.resize(self.size[::-1], resample, box)
        if (wide, high) != image.size:
            image = image.resize((wide, high), resample)
        return image.crop((left, top, left + self.size[1], top + self.size[0]))


def _offset(size: int, crop: int) -> int:
    """Where torchvision's centre crop begins; negative where the image is smaller and is padded."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def crop_share(crop: int, resized: int) -> float:
    """`crop_pct` of a crop of so many pixels from an image resized to so many; `Transform.resized` gives these back.

    >>> Transform(size=(224, 224), crop_pct=crop_share(224, 232)).resized(232, 400)
    (232, 400)
    """
    share = crop / resized
    # Rounded up, it would leave a pixel less.
    return share if math.floor(crop / share) == resized else math.nextafter(share, 0.0)
