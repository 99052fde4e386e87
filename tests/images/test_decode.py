"""Decoding: modes, orientations, limits, and images that are none."""

import contextlib
import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from finer_ray.images.decode import Decoded, DecodeError, decode
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform
from tests.conftest import photo

SIZE = (24, 32)
EXACT = Transform(SIZE, "squash")
LIMIT = 10**6


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture() -> Image.Image:
    """(h, w) = SIZE, each quarter of one colour."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:12, :16], pixels[:12, 16:] = (200, 30, 40), (20, 180, 60)
    pixels[12:, :16], pixels[12:, 16:] = (30, 50, 220), (240, 240, 240)
    return Image.fromarray(pixels)


def decoded(data: bytes, **fields: object) -> Decoded:
    return decode(Sample("k", data, **fields), EXACT, LIMIT)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encode(picture(), format, **options)).image, np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_other_modes_show_what_they_showed(mode: str) -> None:
    if mode == "I;16":
        grey = np.asarray(picture().convert("L")).astype(np.uint16) * 257
        data, expected = encode(Image.fromarray(grey), "PNG"), picture().convert("L").convert("RGB")
    elif mode == "P":
        data, expected = encode(picture().quantize(8), "PNG"), picture()
    else:
        data = encode(picture().convert(mode), "TIFF" if mode == "CMYK" else "PNG")
        expected = picture().convert("1" if mode == "1" else "L" if mode in ("L", "LA") else "RGB").convert("RGB")
    difference = np.abs(decoded(data).image.astype(int) - np.asarray(expected, dtype=int))
    assert difference.max() <= 2


def test_cmyk_jpeg_is_not_inverted() -> None:
    red = Image.new("RGB", SIZE[::-1], (220, 20, 20)).convert("CMYK")
    mean = decoded(encode(red, "JPEG", quality=95)).image.mean((0, 1))
    assert np.abs(mean - (220, 20, 20)).max() < 12


def test_alpha_is_over_white_also_in_palettes() -> None:
    clear = Image.new("RGBA", SIZE[::-1], (10, 20, 30, 0))
    half = Image.new("RGBA", SIZE[::-1], (0, 0, 0, 128))
    indexed = Image.new("P", SIZE[::-1], 0)
    indexed.putpalette([10, 20, 30] * 256)
    assert (decoded(encode(clear, "PNG")).image == 255).all()
    assert np.abs(decoded(encode(half, "PNG")).image.astype(int) - 127).max() <= 1
    assert (decoded(encode(indexed, "PNG", transparency=0)).image == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_with_its_annotations(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns: dict[int, list[Image.Transpose]] = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = picture()
    for turn in turns[orientation]:
        stored = stored.transpose(turn)
    mask = np.zeros(SIZE, np.uint8)
    mask[:12, :16] = 1
    data = encode(stored, "PNG", exif=exif)
    result = decoded(data, mask=encode(Image.fromarray(mask), "PNG"), box=(0.0, 0.0, 5.0, 5.0))
    assert (result.width, result.height) == SIZE[::-1]
    np.testing.assert_array_equal(result.image, np.asarray(picture()))
    assert result.region_kind == "mask"
    np.testing.assert_array_equal(result.region, mask > 0)
    boxed = decoded(data, box=(0.0, 0.0, 16.0, 12.0))
    np.testing.assert_array_equal(boxed.region, mask > 0)


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    mask = encode(Image.new("L", (5, 6), 1), "PNG")
    with pytest.raises(DecodeError, match=r"5x6.*32x24") as caught:
        decoded(encode(picture(), "PNG"), mask=mask)
    assert caught.value.stage == "region"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF", b"<svg/>", photo(1)[:300]])
def test_what_is_no_image_is_named_as_such(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(data)
    assert caught.value.stage == "decode"


def test_too_many_pixels_are_refused_from_the_header() -> None:
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 10**6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DecodeError, match="more pixels than the allowed"):
            decoded(bomb)


def test_a_run_of_filling_bytes_takes_no_time() -> None:
    """40 kB of them took half a minute when each was tried as the beginning of all that follow."""
    start = time.monotonic()
    with pytest.raises(DecodeError):
        decoded(b"\xff\xd8" + b"\xff" * 2**20 + b"\0")
    assert time.monotonic() - start < 10


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2000), st.integers(0, 255), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]))
def test_damage_gives_an_image_or_a_decode_error(place: int, byte: int, format: str) -> None:
    data = bytearray(photo(3, format=format))
    data[place % len(data)] = byte
    for spoilt in (bytes(data), bytes(data[: place % len(data)])):
        with contextlib.suppress(DecodeError):
            assert decoded(spoilt).image.shape == (*SIZE, 3)


def test_fast_jpeg_stays_within_its_tolerance() -> None:
    """Stated: at a quarter of the photo's side, 2 grey levels on average, 1 % of the pixels off by more than 16."""
    big = encode(Image.open(io.BytesIO(photo(5))).resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=92)
    transform = Transform((224, 224), "shortest")
    slow = decode(Sample("k", big), transform, 10**8)
    fast = decode(Sample("k", big), transform, 10**8, fast_jpeg=True)
    difference = np.abs(slow.image.astype(int) - fast.image.astype(int))
    assert difference.mean() <= 2
    assert (difference > 16).mean() <= 0.01
    assert (fast.width, fast.height) == (slow.width, slow.height) == (1600, 1200)


def test_a_colour_profile_does_no_harm() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decoded(encode(picture(), "PNG", icc_profile=profile)).image, np.asarray(picture()))


def part_mask(depth: int, ids: np.ndarray, palette: bool = False) -> bytes:
    """A PNG of so many bits a pixel, written by hand: Pillow writes no grey of 2 or 4 bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = b""
    for row in ids:
        bits = "".join(format(value, f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        lines += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], depth, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", bytes(range(48))) if palette else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + colours
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("depth", "palette"), [(1, False), (2, False), (4, False), (8, False), (16, False), (4, True)])
def test_part_ids_are_what_was_written_at_any_depth(depth: int, palette: bool) -> None:
    """Pillow stretches grey of 2 and 4 bits over 8."""
    most = min(2**depth - 1, 15)
    ids = np.random.default_rng(depth).integers(0, most + 1, SIZE)
    sample = Sample("k", encode(picture(), "PNG"), parts=part_mask(depth, ids, palette))
    found = decode(sample, EXACT, LIMIT, parts=15).parts
    assert found is not None
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, ids)
    assert decode(sample, EXACT, LIMIT).parts is None
    assert decode(Sample("k", sample.image), EXACT, LIMIT, parts=15).parts is None


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (encode(picture(), "PNG"), "the part mask: its pixels are RGB, and ids have one channel"),
        (encode(picture().convert("L"), "JPEG"), "the part mask: JPEG changes ids; save it as PNG"),
        (encode(Image.new("L", (3, 4)), "PNG"), "the part mask: 3x4 pixels, where the photo as displayed has 32x24"),
        (part_mask(16, np.full(SIZE, 300)), "the part mask: a pixel has the id 300; there are parts 1 to 20"),
        (part_mask(8, np.full(SIZE, 21)), "the part mask: a pixel has the id 21; there are parts 1 to 20, and 0"),
        (encode(Image.new("F", SIZE[::-1]), "TIFF"), "the part mask: its pixels are F"),
        (part_mask(8, np.full(SIZE, 1))[:50], "the part mask: "),
        (b"", "the part mask: no image of a known format"),
    ],
)
def test_part_masks_that_cannot_be_ids_are_failures_in_words(mask: bytes, said: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Sample("k", encode(picture(), "PNG"), parts=mask), EXACT, LIMIT, parts=20)
    assert caught.value.stage == "region"
    assert caught.value.message.startswith(said)
    assert caught.value.size == SIZE[::-1]


def test_part_ids_have_the_photo_s_view() -> None:
    """The middle of a photo that is cropped, and nothing in the borders of one that is padded."""
    ids = np.repeat(np.arange(8, dtype=np.uint8), 10)[None].repeat(40, 0)
    sample = Sample("k", encode(Image.new("RGB", (80, 40)), "PNG"), parts=encode(Image.fromarray(ids), "PNG"))
    cropped = decode(sample, Transform((40, 40)), LIMIT, parts=255).parts
    np.testing.assert_array_equal(cropped, ids[:, 20:60])
    padded = decode(sample, Transform((80, 80), "pad"), LIMIT, parts=255).parts
    assert padded is not None
    np.testing.assert_array_equal(padded[20:60], ids)
    assert not padded[:20].any()
    assert not padded[60:].any()
