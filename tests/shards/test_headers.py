"""Headers: what Pillow would decode in Python is bounded, whatever the file's size."""

import io

import numpy as np
import pytest
from PIL import Image

from finer_ray.shards.decode import DecodeError, decode
from finer_ray.shards.headers import MAX_PPM_COMMENTS, MAX_PPM_HEADER
from finer_ray.shards.sample import Sample
from finer_ray.shards.transform import Transform
from tests.conftest import photo
from tests.hostile.images import rle_bmp

TRANSFORM = Transform((64, 64))


def refused(data: bytes) -> str:
    """Why an image is refused; as a mask it is, too."""
    with pytest.raises(DecodeError) as caught:
        decode(Sample("k", data), TRANSFORM, 10**8)
    width, height = size_of(data)
    if width * height < 10**6:
        with pytest.raises(DecodeError, match=r"region: the mask"):
            decode(Sample("k", photo(1, (width, height)), mask=data), TRANSFORM, 10**8)
    assert caught.value.stage == "decode"
    return caught.value.message


def size_of(data: bytes) -> tuple[int, int]:
    try:
        return Image.open(io.BytesIO(data)).size
    except OSError:
        return 10**4, 10**4


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
    ):
        assert "a PPM in ASCII, or whose largest value is unusual" in (found := refused(data))
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
