"""Drawn photos: JPEGs with the spectrum of natural images, in tars."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gpu_sections.setting import Setting

# The common size of ImageNet's photos, and the quality that gives about their mean of 110 KB.
SIZE, QUALITY = (500, 375), 90


def photo(seed: int) -> bytes:
    """A JPEG of noise whose amplitude falls with frequency, as that of natural images does; mostly grey, like them."""
    width, height = SIZE
    drawn = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    layers = []
    for _ in range(4):
        noise = drawn.standard_normal((2, *frequency.shape))
        layer = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency, s=(height, width))
        layers.append(layer / layer.std())
    grey, colours = layers[0], np.stack(layers[1:], axis=-1)
    pixels = 120 + 50 * grey[..., None] + 15 * colours
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_shards(setting: Setting) -> list[Path]:
    """Tars of the same few photos over and over; all but the first are links to it, and cost no disk."""
    folder = setting.work / "shards"
    first = folder / "0000.tar"
    if not first.exists():
        folder.mkdir(parents=True, exist_ok=True)
        photos = [photo(seed) for seed in range(setting.photos)]
        with tarfile.open(first, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(setting.shard_images):
                body = photos[number % len(photos)]
                info = tarfile.TarInfo(f"{number:06d}.jpg")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        for number in range(1, setting.shards):
            os.link(first, folder / f"{number:04d}.tar")
    return sorted(folder.glob("*.tar"))


def encoded_photos(setting: Setting, most: int) -> list[bytes]:
    """The first photos of a shard, as they stand in it."""
    with tarfile.open(write_shards(setting)[0]) as tar:
        files = [tar.extractfile(member) for member in tar.getmembers()[:most]]
        return [file.read() for file in files if file is not None]
