"""JPEGs decoded and resized on the model's device: nvJPEG on CUDA, libjpeg-turbo on a CPU."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from finer_ray.errors import ConfigError
from finer_ray.shards.deferred import MOST_PIXELS
from finer_ray.shards.transform import Transform

OUT_OF_MEMORY = "out of memory"
# Threads take turns: see _decode.
TURN = Lock()


def decode_batch(
    encoded: Sequence[bytes], sizes: Sequence[tuple[int, int]], transform: Transform, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Decode JPEGs that `defer` chose, in the geometry that the transform gives photos on the CPU.

    Args:
        encoded: n JPEGs, one at least.
        sizes: their (width, height).
        transform: the backbone's.
        device: where they are decoded and stay.

    Returns:
        (n, 3, h, w) uint8 on the device, and the positions of those that it could not decode, which are black.

    Raises:
        ConfigError: the device decodes no JPEGs at all.
        torch.OutOfMemoryError: of the device.
    """
    _check(device)
    if device.type != "cuda":
        return _decode_batch(encoded, sizes, transform, device)
    # In a stream of its own, and so in memory of its own: see _decode.
    stream, current = _stream(device), torch.cuda.current_stream(device)
    with TURN, torch.cuda.stream(stream):
        batch, failed = _decode_batch(encoded, sizes, transform, device)
    current.wait_stream(stream)
    batch.record_stream(current)
    return batch, failed


def _decode_batch(
    encoded: Sequence[bytes], sizes: Sequence[tuple[int, int]], transform: Transform, device: torch.device
) -> tuple[Tensor, list[int]]:
    framed: dict[int, Tensor] = {}
    for group in _groups(sizes):
        alike: dict[torch.Size, dict[int, Tensor]] = defaultdict(dict)
        for place, photo in zip(group, _decode_each([encoded[place] for place in group], device), strict=True):
            if photo is not None:
                alike[photo.shape][place] = photo
        # Photos of one size are resized together.
        for photos in alike.values():
            framed |= zip(photos, reframe(torch.stack([*photos.values()]), transform), strict=True)
    black = torch.zeros((3, *transform.size), dtype=torch.uint8, device=device)
    batch = torch.stack([framed.get(place, black) for place in range(len(encoded))])
    return batch, [place for place in range(len(encoded)) if place not in framed]


def reframe(photos: Tensor, transform: Transform) -> Tensor:
    """Resize and crop photos as `Transform.apply` does, to about one level in ten thousand pixels.

    As Pillow, along one side and then the other, with whole levels between: in one go, photos differ by up to 11.

    Args:
        photos: (n, 3, height, width) uint8.

    Returns:
        (n, 3, h, w) uint8.
    """
    height, width = photos.shape[2:]
    wide, high = transform.resized(width, height)
    # Pillow's order since version 13.
    down_first = height - high > max(0, 2 * (width - wide))
    for size in ((high, width) if down_first else (height, wide), (high, wide)):
        if photos.shape[2:] != size:
            resized = interpolate(photos.float(), size, mode=transform.interpolation, antialias=True)
            photos = resized.clamp_(0, 255).add_(0.5).floor_()
    left, top = transform.corner(wide, high)
    # Where these are negative, the photo is cut.
    borders = (-left, left + transform.size[1] - wide, -top, top + transform.size[0] - high)
    return pad(photos, borders).to(torch.uint8)


def _decode_each(encoded: Sequence[bytes], device: torch.device) -> list[Tensor | None]:
    """Each (3, height, width) uint8, None where it cannot be decoded; torchvision gives all of a list or nothing."""
    try:
        return [*_decode(encoded, device)]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        if len(encoded) == 1:
            return [None]
    return [photo for one in encoded for photo in _decode_each([one], device)]


def _decode(encoded: Sequence[bytes], device: torch.device) -> list[Tensor]:
    tensors = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data in encoded]
    if device.type == "cuda":
        # nvJPEG's hardware engine writes without waiting for the kernels that may still read the same memory
        # (pytorch/vision#9606, meta-pytorch/torchcodec#1634); in a stream of our own there are few to wait for.
        torch.cuda.current_stream(device).synchronize()
    try:
        photos: list[Tensor] = decode_jpeg(tensors, mode=ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        # torchvision makes a plain error of a full device.
        if OUT_OF_MEMORY in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
    return photos


def _groups(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Positions, in order, in groups that have no more pixels together than one photo may have."""
    group: list[int] = []
    pixels = 0
    for place, (width, height) in enumerate(sizes):
        if group and pixels + width * height > MOST_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(place)
        pixels += width * height
    if group:
        yield group


@cache
def _check(device: torch.device) -> None:
    """Else each photo would be found bad, one by one, and be decoded on the CPU that feeds the model."""
    sample = encode_jpeg(torch.zeros((3, 16, 16), dtype=torch.uint8)).numpy().tobytes()
    try:
        _decode([sample], device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ConfigError(f"input.decoder: {device.type} decodes no JPEGs: {error}") from error


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
