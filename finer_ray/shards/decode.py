"""Decoding: from a sample's bytes to the backbone's input, in whatever mode the photo was stored."""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from finer_ray.shards.message import brief
from finer_ray.shards.sample import Sample
from finer_ray.shards.transform import Transform

# Pillow opens PostScript and other programs' formats too; photos need none of them.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
ORIENTATION = 0x0112


class DecodeError(Exception):
    """An image that cannot be used.

    Attributes:
        stage: `read`, `decode` or `region`.
        message: what is wrong with it.
    """

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage, self.message = stage, message


@dataclass(frozen=True, slots=True)
class Decoded:
    """A photo in the backbone's geometry.

    Attributes:
        image: (h, w, 3) uint8.
        region: (h, w) bool, the annotated object, or None where there is no annotation.
        region_kind: what the region was made of.
        width, height: of the displayed photo (after its EXIF orientation), pixels.
    """

    image: NDArray[np.uint8]
    region: NDArray[np.bool_] | None
    region_kind: Literal["mask", "box"] | None
    width: int
    height: int


def decode(
    sample: Sample,
    transform: Transform,
    max_pixels: int,
    fast_jpeg: bool = False,
    region: bool = True,
) -> Decoded:
    """Decode a sample: displayed orientation, 8-bit RGB on white, the transform's geometry.

    Args:
        sample: as a shard holds it.
        transform: the backbone's.
        max_pixels: photos and masks with more are refused before they are decoded.
        fast_jpeg: let the JPEG decoder shrink a photo to no less than twice the size wanted.
        region: whether the mask, or else the box, is wanted too.

    Raises:
        DecodeError: unreadable, too large, or a mask that does not fit its photo.
    """
    if sample.error is not None or sample.image is None:
        raise DecodeError("read", sample.error or "no image")
    photo, (width, height) = _photo(sample.image, transform, max_pixels, fast_jpeg)
    image = transform.apply(photo)
    if region and sample.mask is not None:
        mask = _mask(sample.mask, (width, height), max_pixels)
        return Decoded(image, transform.apply_mask(mask), "mask", width, height)
    if region and sample.box is not None:
        return Decoded(image, transform.apply_box(sample.box, width, height), "box", width, height)
    return Decoded(image, None, None, width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: alpha over white; 16-bit values over 257; floats from [0, 1], or as 0..255 where
    larger ones occur."""
    if image.mode in WIDE:
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info) or image.mode == "La":
        image = image.convert("RGBA")
    if image.mode in ("RGB", "L", "1") and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _photo(data: bytes, transform: Transform, max_pixels: int, fast_jpeg: bool) -> tuple[Image.Image, tuple[int, int]]:
    """The displayed photo in RGB, and its full (width, height), which a fast JPEG no longer has."""
    try:
        image = _open(data, max_pixels)
        turned = _orientation(image) >= 5
        size = image.size[::-1] if turned else image.size
        if fast_jpeg and image.format == "JPEG":
            wide, high = transform.resized(*size)
            image.draft("RGB", (2 * high, 2 * wide) if turned else (2 * wide, 2 * high))
        image.load()
        return to_rgb(_upright(image)), size
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError("decode", brief(error)) from None


def _mask(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.bool_]:
    """A mask as (height, width) bool: non-zero in any colour, and not transparent."""
    try:
        image = _open(data, max_pixels)
        image.load()
        if image.mode in ("P", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
        pixels = np.asarray(image)
    except DecodeError as error:
        raise DecodeError("region", f"the mask: {error.message}") from None
    except Exception as error:
        raise DecodeError("region", f"the mask: {brief(error)}") from None
    if image.size != size:
        raise DecodeError(
            "region",
            f"the mask is {image.size[0]}x{image.size[1]}, the photo as displayed {size[0]}x{size[1]}",
        )
    inside: NDArray[np.bool_] = pixels != 0
    if inside.ndim == 2:
        return inside
    if image.mode in ("RGBA", "LA"):
        inside = inside[..., :-1] & inside[..., -1:]
    return np.logical_or.reduce(inside, axis=-1)  # type: ignore[no-any-return]


def _open(data: bytes, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow's own limit, of which it warns, is replaced by the config's.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise DecodeError("decode", f"no image of a known format: begins with {data[:8]!r}") from None
        except Image.DecompressionBombError:
            raise DecodeError("decode", f"more pixels than the allowed {max_pixels}") from None
    if image.size[0] * image.size[1] > max_pixels:
        raise DecodeError("decode", f"{image.size[0]}x{image.size[1]} are more pixels than the allowed {max_pixels}")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where the EXIF data is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Turning it needs the orientation alone; rewriting the rest of the EXIF data may fail.
        bare = Image.frombytes(image.mode, image.size, image.tobytes())
        bare.getexif()[ORIENTATION] = _orientation(image)
        return ImageOps.exif_transpose(bare)


def _eight_bits(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    values = np.nan_to_num(pixels.astype(np.float64), posinf=np.inf, neginf=-np.inf)
    if pixels.dtype.kind == "f":
        values = values * 255 if values.size and values.max() <= 1.0 else values
    else:
        values = values / 257
    return values.round().clip(0, 255).astype(np.uint8)
