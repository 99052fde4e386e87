"""Headers: what Pillow would decode in Python is bounded, whatever the file's size."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finer_ray.datasets.entry import read_entries
from finer_ray.datasets.listing import Record
from finer_ray.images.decode import DecodeError, decode
from finer_ray.images.headers import MAX_PPM_COMMENTS, MAX_PPM_HEADER
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform
from tests.conftest import photo
from tests.hostile.images import rle_bmp

TRANSFORM = Transform((64, 64))


def refused(data: bytes) -> str:
    """Why an image is refused."""
    with pytest.raises(DecodeError) as caught:
        decode(Sample("k", data), TRANSFORM, 10**8)
    assert caught.value.stage == "decode"
    return caught.value.message


def pixels_of(data: bytes) -> np.ndarray:
    return decode(Sample("k", data), Transform((8, 16), resize="squash", interpolation="nearest"), 10**8).image


@pytest.mark.parametrize("four_bits", [False, True])
def test_a_small_rle_bmp_is_read(four_bits: bool) -> None:
    # Eight rows of one run of 16 pixels each, from the bottom up; row r in palette entry r.
    rows = b"".join(bytes([16, row * 17 if four_bits else row, 0, 0]) for row in range(8)) + b"\0\1"
    found = pixels_of(rle_bmp(16, 8, rows, four_bits))
    np.testing.assert_array_equal(found[:, :, 0], np.repeat(np.arange(7, -1, -1), 16).reshape(8, 16))


@pytest.mark.parametrize(("width", "height"), [(100_000_000, 1), (10_000, 10_000), (4_000_001, 1)])
def test_a_large_rle_bmp_is_refused_with_what_to_do(width: int, height: int) -> None:
    assert "an RLE-compressed BMP" in (found := refused(rle_bmp(width, height, b"\1\7\0\0" * height)))
    assert "convert it to PNG" in found


def test_large_ppms_that_are_decoded_in_python_are_refused() -> None:
    for data in (
        b"P3 2000 2000 255\n" + b"7 " * 10,
        b"P2 4000 2000 255\n" + b"7 " * 10,
        b"P1 3000 2000\n" + b"1" * 10,
        b"P2 2 2 255\n1 2 3 4" + b" " * 2**24,
        b"P6 2000 2000 254\n" + b"7" * 10,
        b"P5 4000 2000 1000\n" + b"7" * 10,
        b"P6 2000 2000 65535\n" + b"7" * 10,
    ):
        assert "a PPM in ASCII, or with a largest value other than 255" in (found := refused(data))
        assert "convert it to PNG" in found


def test_usual_ppms_of_any_size_are_read() -> None:
    for mode, size in (("RGB", (3000, 2000)), ("L", (4000, 2000)), ("1", (4000, 2000))):
        buffer = io.BytesIO()
        Image.new(mode, size, 1).save(buffer, "PPM")
        assert pixels_of(buffer.getvalue()).shape == (8, 16, 3)
    comments = b"#\n" * (MAX_PPM_COMMENTS - 1)
    for plain in (b"P3\n2 1\n255\n" + comments + b"1 2 3 4 5 6", b"P3 # a\n 2 # b\n1 255 1 2 3 4 5 6"):
        assert {tuple(pixel) for pixel in pixels_of(plain).reshape(-1, 3)} == {(1, 2, 3), (4, 5, 6)}


def test_comments_of_a_ppm_are_bounded() -> None:
    assert "comments" in refused(b"P2 2 2 255\n" + b"#\n" * (MAX_PPM_COMMENTS + 1) + b"1 2 3 4")
    for head in (b"P5 #" + b"x" * MAX_PPM_HEADER + b"\n", b"P5" + b" " * MAX_PPM_HEADER):
        assert "without width and height" in refused(head + b"2 2 255\n1234")


def test_masks_have_the_same_limits() -> None:
    for mask in (b"P2 2 2 255\n1 2 3 4" + b" " * 2**24, b"P2 2 2 255\n" + b"#\n" * (MAX_PPM_COMMENTS + 1) + b"1 2 3 4"):
        with pytest.raises(DecodeError, match=r"region: the mask: ValueError: a PPM") as caught:
            decode(Sample("k", photo(1, (2, 2)), mask=mask), TRANSFORM, 10**8)
        assert "convert it to PNG" in caught.value.message


def test_packing_has_them_too(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(rle_bmp(100_000_000, 1, b"\1\7\0\0"))
    ((entry, findings),) = read_entries(str(tmp_path), [Record("a", "a.bmp", 1)])
    assert entry is None
    assert "an RLE-compressed BMP" in findings[0].what
