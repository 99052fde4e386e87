"""The transform: from a photo to the backbone's input, as timm and open_clip make it for evaluation."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}

MAX_RESIZED_PIXELS = 2**26
Resize = Literal["shortest", "squash", "pad", "native"]


@dataclass(frozen=True, slots=True)
class Transform:
    """Resize, then crop the centre or fill what is missing; normalising is left to the model's device.

    >>> Transform(size=(224, 224), crop_pct=0.875).resized(640, 480)
    (341, 256)
    >>> Transform(size=(994, 994), resize="native", multiple=(14, 14)).shape(4000, 3000)
    (742, 994)

    Attributes:
        size: (h, w) of the result, pixels; of `native` the largest that there is.
        resize: `shortest` keeps the aspect ratio and crops, `squash` does neither, `pad` keeps it and adds borders,
            `native` keeps it, up to `multiple`, and gives each image a size of its own, see `shape`.
        crop_pct: size of the crop over the size resized to, in (0, 1]; of `pad` 1 shows the whole image; 1 of `native`.
        interpolation: filter of the resize.
        mean, std: per channel, of values in [0, 1]; carried for whoever normalises.
        fill: RGB of the borders of `pad`, 0 to 255.
        multiple: (height, width) of which the sides of `native` are multiples, pixels.
    """

    size: tuple[int, int]
    resize: Resize = "shortest"
    crop_pct: float = 1.0
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    # Not in `repr`, which fingerprints of models hold since before there were these; see `key`.
    fill: tuple[int, int, int] = field(default=(0, 0, 0), repr=False)
    multiple: tuple[int, int] = field(default=(1, 1), repr=False)

    @property
    def key(self) -> str:
        """What decides the pixels, as text, for fingerprints."""
        more = {"pad": f" fill={self.fill}", "native": f" multiple={self.multiple}"}
        return repr(self) + more.get(self.resize, "")

    def in_multiples(self, multiple: tuple[int, int]) -> Self:
        """The transform whose sizes a model takes: of `native`, sides are multiples of these (height, width) pixels."""
        if self.resize != "native":
            return self
        height, width = (max(1, side // step) * step for side, step in zip(self.size, multiple, strict=True))
        return replace(self, size=(height, width), multiple=multiple)

    def enlarged(self, times: int) -> Self:
        """The transform that shows the same with so many times the pixels along each side; `native`, which shows photos
        in their own pixels, as it is."""
        if self.resize == "native":
            return self
        return replace(self, size=(times * self.size[0], times * self.size[1]))

    def apply(self, image: Image.Image, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """An RGB image as (h, w, 3) uint8; where it is smaller than the crop, `fill` (else black) surrounds it.

        Args:
            image: the photo, or a reduced copy of it.
            size: (width, height) of the photo, by which `native` is shaped; the image's own when None. The other modes
                go by the image, as they always have.
        """
        known = size if size is not None and self.resize == "native" else image.size
        return np.asarray(self._geometry(image, FILTERS[self.interpolation], known, self.fill), np.uint8)

    def apply_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask (height, width) in the image's geometry, (h, w) bool; False outside the image."""
        return self.apply_ids(mask.astype(np.uint8)) > 0

    def apply_ids(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Ids (height, width) in the image's geometry, (h, w), each that of the nearest pixel; 0 outside the image."""
        image = Image.fromarray(ids)
        return np.asarray(self._geometry(image, Image.Resampling.NEAREST, image.size, 0))

    def apply_box(self, box: tuple[float, float, float, float], width: int, height: int) -> NDArray[np.bool_]:
        """The pixels whose centres lie in a box (x1, y1, x2, y2 of the image), (h, w) bool."""
        wide, high = self.resized(width, height)
        left, top = self.corner(wide, high)
        rows, columns = self.shape(width, height)
        x = (np.arange(columns) + left + 0.5) * (width / wide)
        y = (np.arange(rows) + top + 0.5) * (height / high)
        x1, y1, x2, y2 = box
        return ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None, :]

    def view(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What the result shows of an image: x1, y1, x2, y2 as shares of its width and height; beyond 0 and 1 where
        borders surround it."""
        wide, high = self.resized(width, height)
        left, top = self.corner(wide, high)
        rows, columns = self.shape(width, height)
        return left / wide, top / high, (left + columns) / wide, (top + rows) / high

    def view_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The same in the image's pixels."""
        x1, y1, x2, y2 = self.view(width, height)
        return x1 * width, y1 * height, x2 * width, y2 * height

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) of the result for an image of (width, height): `size`, but that of `native` follows the image."""
        if self.resize != "native":
            return self.size
        wide, high = self.resized(width, height)
        return high, wide

    def positions(self, width: int, height: int) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """Where the rows (height,) and columns (width,) of an image lie in the result, in pixels: the centre of its
        first one is 0, and what is cropped away lies outside of it."""
        wide, high = self.resized(width, height)
        left, top = self.corner(wide, high)
        rows = (np.arange(height) + 0.5) * (high / height) - top - 0.5
        return rows, (np.arange(width) + 0.5) * (wide / width) - left - 0.5

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after the resize, before the crop."""
        if self.resize == "native":
            # Never enlarged; each side the nearest multiple.
            scale = min(1.0, self.size[0] / height, self.size[1] / width)
            high, wide = (
                min(most, max(1, round(side * scale / step)) * step)
                for side, step, most in zip((height, width), self.multiple, self.size, strict=True)
            )
            return wide, high
        tall, wide = (math.floor(side / self.crop_pct) for side in self.size)
        if self.resize == "squash":
            return wide, tall
        if self.resize == "pad":
            ratio = max(height / tall, width / wide)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if tall == wide:
            # As torchvision's Resize(int): the shorter side exactly, the longer truncated.
            if width <= height:
                return wide, int(wide * height / width)
            return int(tall * width / height), tall
        # As timm's and open_clip's ResizeKeepRatio for targets that are not square.
        ratio = min(height / tall, width / wide)
        return round(width / ratio), round(height / ratio)

    def corner(self, wide: int, high: int) -> tuple[int, int]:
        """(left, top) of the crop in the image resized to (wide, high); negative where borders are added there."""
        if self.resize == "native":
            return 0, 0
        return _offset(wide, self.size[1]), _offset(high, self.size[0])

    def _geometry(
        self, image: Image.Image, resample: Image.Resampling, size: tuple[int, int], fill: int | tuple[int, int, int]
    ) -> Image.Image:
        wide, high = self.resized(*size)
        left, top = self.corner(wide, high)
        rows, columns = self.shape(*size)
        if wide * high > MAX_RESIZED_PIXELS:
            # Of an image that is hundreds of times as long as it is wide, only what the crop shows is resized.
            x, y = image.width / wide, image.height / high
            box = (left * x, top * y, (left + columns) * x, (top + rows) * y)
            return image.resize((columns, rows), resample, box)
        if (wide, high) != image.size:
            image = image.resize((wide, high), resample)
        if self.resize == "pad":
            bordered = Image.new(image.mode, (columns, rows), fill if isinstance(fill, int) else tuple(fill))
            bordered.paste(image, (-left, -top))
            return bordered
        return image.crop((left, top, left + columns, top + rows))


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
