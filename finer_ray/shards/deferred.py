"""Photos left to the model's device: JPEGs that it should be able to decode, told by their headers alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from finer_ray.shards.decode import RegionKind, open_image, orientation, region_of
from finer_ray.shards.headers import is_baseline_jpeg
from finer_ray.shards.sample import Sample
from finer_ray.shards.transform import Transform

# Of one encoded photo: a whole unit of them is held at a time.
MOST_BYTES = 2**20
# Of one photo at each step of its way, decoded, resized along one side, resized: 12 bytes each while it is resized.
MOST_PIXELS = 2**25
# CUDA's kernel has no room for the weights of large reductions, as by 94 (pytorch/vision#7671).
MOST_REDUCTION = 32
FILTERS = ("bicubic", "bilinear")
# Components as (identifier, horizontal and vertical sampling): 4:4:4, 4:2:2, 4:4:0 and 4:2:0 of YCbCr.
SAMPLINGS = ((1, 1), (2, 1), (1, 2), (2, 2))
CHROMA = [(2, 1, 1), (3, 1, 1)]


@dataclass(frozen=True, slots=True)
class Deferred:
    """A photo that is still encoded.

    Attributes:
        encoded: a JPEG.
        region: (h, w) bool in the backbone's geometry, as of `Decoded`.
        region_kind: what the region was made of.
        width, height: of the photo, pixels.
    """

    encoded: bytes
    region: NDArray[np.bool_] | None
    region_kind: RegionKind | None
    width: int
    height: int


def defer(sample: Sample, transform: Transform, max_pixels: int, region: bool = True) -> Deferred | None:
    """A sample whose photo the device is to decode, or None where `decode` is to be asked.

    Deferred are JPEGs that are baseline, of one scan, grey or YCbCr of usual sampling, upright, of bounded size, and
    whose end is there, so that a cut one is found without decoding. Progressive ones are not: nvJPEG decodes those one
    by one on the CPU that feeds the model. Everything else, and whatever is wrong, is `decode`'s, which names it.

    Args:
        sample, transform, max_pixels, region: as of `decode`.
    """
    data = sample.image
    if data is None or sample.error is not None or len(data) > MOST_BYTES or transform.interpolation not in FILTERS:
        return None
    try:
        if not is_baseline_jpeg(data):
            return None
        image = open_image(data, max_pixels)
        if not (_is_plain(image) and _is_bounded(image.size, transform)):
            return None
        found, kind = region_of(sample, transform, image.size, max_pixels) if region else (None, None)
    except Exception:
        return None
    return Deferred(data, found, kind, *image.size)


def _is_plain(image: Image.Image) -> bool:
    """Whether no colours need to be guessed and nothing to be turned."""
    # A JPEG of several pictures is of a subclass.
    if type(image) is not JpegImageFile or image.info.get("adobe_transform", 1) != 1 or orientation(image) != 1:
        return False
    layers = [layer[:3] for layer in image.layer]
    if image.mode == "L":
        return layers[0][1:] == (1, 1)
    return image.mode == "RGB" and layers[0][0] == 1 and layers[0][1:] in SAMPLINGS and layers[1:] == CHROMA


def _is_bounded(size: tuple[int, int], transform: Transform) -> bool:
    width, height = size
    wide, high = transform.resized(width, height)
    pixels = max(width, wide) * max(height, high)
    # Of photos one pixel wide, torch 2.11's resize on the CPU makes something else.
    return width > 1 and pixels <= MOST_PIXELS and max(width / wide, height / high) <= MOST_REDUCTION
