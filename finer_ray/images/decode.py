"""Decoding: from a sample's bytes to the backbone's input, in whatever mode the photo was stored."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from finer_ray.config.messages import brief
from finer_ray.images.headers import check_decoder, check_headers
from finer_ray.images.image_formats import READ
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform

# Pixels that are converted at a time, so that no second copy of a whole photo is made.
BAND = 2**20
WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# Grey values of fewer bits, which Pillow stretches over 8: by what.
SHALLOW = {"L;2": 85, "L;4": 17}
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


RegionKind = Literal["mask", "box"]


class DecodeError(Exception):
    """An image that cannot be used.

    Attributes:
        stage: `read`, `decode` or `region`.
        message: what is wrong with it.
        size: (width, height) of the displayed photo, pixels, where its header tells; else None.
    """

    def __init__(self, stage: str, message: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage, self.message, self.size = stage, message, size


@dataclass(frozen=True, slots=True)
class Decoded:
    """A photo in the backbone's geometry.

    Attributes:
        image: (h, w, 3) uint8.
        region: (h, w) bool, the annotated object, or None where there is no annotation.
        region_kind: what the region was made of.
        parts: (h, w) uint8, the id of the part that each pixel shows, 0 for none; None where there is no annotation.
        width, height: of the displayed photo (after its EXIF orientation), pixels.
    """

    image: NDArray[np.uint8]
    region: NDArray[np.bool_] | None
    region_kind: RegionKind | None
    width: int
    height: int
    parts: NDArray[np.uint8] | None = None


def decode(
    sample: Sample,
    transform: Transform,
    max_pixels: int,
    fast_jpeg: bool = False,
    region: bool = True,
    parts: int = 0,
) -> Decoded:
    """Decode a sample: displayed orientation, 8-bit RGB on white, the transform's geometry.

    Args:
        sample: as a shard holds it.
        transform: the backbone's.
        max_pixels: photos and masks with more are refused before they are decoded. One takes 8 to 12 bytes a
            pixel while it is decoded, WebP 16, and one a pixel wide 20.
        fast_jpeg: let the JPEG decoder shrink a photo to no less than twice the size wanted.
        region: whether the mask, or else the box, is wanted too.
        parts: the largest id of its parts, at most 255; 0 where they are not wanted.

    Raises:
        DecodeError: unreadable, too large, or a mask that does not fit its photo or the ids of parts.

    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (80, 64)).save(buffer, "PNG")
    >>> decode(Sample("a", buffer.getvalue(), box=(0, 0, 40, 64)), Transform((32, 32)), max_pixels=10**6).image.shape
    (32, 32, 3)
    """
    if sample.error is not None or sample.image is None:
        raise DecodeError("read", sample.error or "no image")
    image, size = _photo(sample.image, transform, max_pixels, fast_jpeg)
    try:
        found, kind = region_of(sample, transform, size, max_pixels) if region else (None, None)
        ids = None if sample.parts is None or not parts else _parts(sample.parts, size, max_pixels, parts)
    except DecodeError as error:
        raise DecodeError(error.stage, error.message, size) from None
    return Decoded(image, found, kind, *size, None if ids is None else transform.apply_ids(ids))


def region_of(
    sample: Sample, transform: Transform, size: tuple[int, int], max_pixels: int
) -> tuple[NDArray[np.bool_] | None, RegionKind | None]:
    """The annotated region (h, w) of a photo of that (width, height), and what it was made of: the mask, or else the
    box. Raises DecodeError where the mask does not fit."""
    if sample.mask is not None:
        return transform.apply_mask(_mask(sample.mask, size, max_pixels)), "mask"
    if sample.box is not None:
        return transform.apply_box(sample.box, *size), "box"
    return None, None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: alpha over white; 16-bit values over 257; floats from [0, 1], or as 0..255 where
    larger ones occur."""
    if image.mode in WIDE:
        image = _eight_bits(image)
    if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info) or image.mode == "La":
        image = image.convert("RGBA")
    if image.mode in ("RGB", "L", "1") and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "RGBa"):
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _photo(
    data: bytes, transform: Transform, max_pixels: int, fast_jpeg: bool
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The displayed photo in the transform's geometry, and its full (width, height), which a fast JPEG has not."""
    size = None
    try:
        image = open_image(data, max_pixels)
        # Pillow turns TIFFs by itself, and gives their size as displayed from the start.
        turned = orientation(image) >= 5 and image.format != "TIFF"
        size = image.size[::-1] if turned else image.size
        if fast_jpeg and image.format == "JPEG":
            wide, high = transform.resized(*size)
            image.draft("RGB", (2 * high, 2 * wide) if turned else (2 * wide, 2 * high))
        image.load()
        return transform.apply(to_rgb(_upright(image)), size), size
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError("decode", brief(error), size) from None


def _mask(data: bytes, size: tuple[int, int], max_pixels: int) -> NDArray[np.bool_]:
    """A mask as (height, width) bool: non-zero in any colour, and not transparent."""
    with _fitting("the mask", data, size, max_pixels) as image:
        image.load()
        mask = np.empty(size[::-1], bool)
        for rows in _bands(image):
            mask[rows] = _inside(image.crop((0, rows.start, image.width, rows.stop)))
    return mask


def _parts(data: bytes, size: tuple[int, int], max_pixels: int, largest: int) -> NDArray[np.uint8]:
    """A part mask as (height, width) ids: grey values, or places in a palette."""
    with _fitting("the part mask", data, size, max_pixels) as image:
        if image.mode not in (*WIDE, "1", "L", "P") or image.mode == "F":
            raise DecodeError("region", f"its pixels are {image.mode}, and ids have one channel (grey, or a palette)")
        if image.format == "JPEG":
            raise DecodeError("region", "JPEG changes ids; save it as PNG")
        # Where a file's pixels stand and how they are packed, as long as they are not read.
        tiles = getattr(image, "tile", [])
        shallow = SHALLOW.get(tiles[0].args, 1) if image.format == "PNG" and tiles else 1
        ids = np.asarray(image) // shallow if shallow > 1 else np.asarray(image)
        if not 0 <= ids.min() <= ids.max() <= largest:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise DecodeError("region", f"a pixel has the id {wrong}; there are parts 1 to {largest}, and 0 for none")
    return ids.astype(np.uint8)


@contextmanager
def _fitting(what: str, data: bytes, size: tuple[int, int], max_pixels: int) -> Iterator[Image.Image]:
    """An image of a photo's size (width, height), for reading; any fault is a DecodeError that names it."""
    try:
        image = open_image(data, max_pixels)
        if image.size != size:
            raise DecodeError(
                "region",
                f"{image.size[0]}x{image.size[1]} pixels, where the photo as displayed has {size[0]}x{size[1]}",
            )
        yield image
    except DecodeError as error:
        raise DecodeError("region", f"{what}: {error.message}") from None
    except Exception as error:
        raise DecodeError("region", f"{what}: {brief(error)}") from None


def _inside(image: Image.Image) -> NDArray[np.bool_]:
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    inside: NDArray[np.bool_] = np.asarray(image) != 0
    if inside.ndim == 2:
        return inside
    if image.mode in ("RGBA", "LA"):
        inside = inside[..., :-1] & inside[..., -1:]
    return np.logical_or.reduce(inside, axis=-1)  # type: ignore[no-any-return]


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """An image of which only headers are read. Raises where they cannot be, or claim too much."""
    check_headers(data, max_pixels)
    with warnings.catch_warnings():
        # Pillow's own limit, of which it warns, is replaced by the config's.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=tuple(READ))
        except UnidentifiedImageError:
            raise DecodeError("decode", f"no image of a known format: begins with {data[:8]!r}") from None
        except Image.DecompressionBombError:
            raise DecodeError("decode", f"more pixels than the allowed {max_pixels}") from None
    if image.size[0] * image.size[1] > max_pixels:
        raise DecodeError("decode", f"{image.size[0]}x{image.size[1]} are more pixels than the allowed {max_pixels}")
    check_decoder(image, len(data))
    return image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where the EXIF data is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Wide grey values as mode L."""
    pixels = np.asarray(image)
    factor = 1 / 257
    if pixels.dtype.kind == "f":
        # fmax passes over NaN, of which there may be nothing else.
        factor = 255.0 if np.fmax.reduce(pixels, axis=None, initial=0.0) <= 1.0 else 1.0
    grey = np.empty(pixels.shape, np.uint8)
    for rows in _bands(image):
        values = np.nan_to_num(pixels[rows].astype(np.float64), posinf=np.inf, neginf=-np.inf)
        values = values / 257 if factor < 1 else values * factor
        grey[rows] = values.round().clip(0, 255)
    return Image.fromarray(grey)


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA over white, as RGB."""
    result = Image.new("RGB", image.size)
    for rows in _bands(image):
        band = image.crop((0, rows.start, image.width, rows.stop))
        white = Image.new("RGBA", band.size, "white")
        result.paste(Image.alpha_composite(white, band).convert("RGB"), (0, rows.start))
    return result


def _bands(image: Image.Image) -> Iterator[slice]:
    """The rows of an image, about a million pixels at a time."""
    step = max(1, BAND // image.width)
    return (slice(first, min(first + step, image.height)) for first in range(0, image.height, step))
