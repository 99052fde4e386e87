"""Photos left to the device: which those are, and that they come out as the CPU's decoder makes them."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torch import Tensor

from finer_ray.errors import ConfigError
from finer_ray.shards import DecodeError, Deferred, Sample, Transform, decode, defer, deferred, device_jpeg
from finer_ray.shards.device_jpeg import decode_batch
from tests.conftest import photo
from tests.hostile import images
from tests.hostile.images import encode

CPU = torch.device("cpu")
SQUARE = Transform((64, 64), crop_pct=0.9)
LIMIT = 10**6
SIDES = st.integers(1, 300)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
TURNED_BY_XMP = b"http://ns.adobe.com/xap/1.0/\0" + b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """The hardest picture for a filter."""
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def left(data: bytes, transform: Transform = SQUARE, **fields: object) -> Deferred | None:
    return defer(Sample("k", data, **fields), transform, LIMIT)  # type: ignore[arg-type]


def on_cpu(data: bytes, transform: Transform = SQUARE) -> np.ndarray:
    return decode(Sample("k", data), transform, LIMIT).image


def on_device(*photos: Deferred, transform: Transform = SQUARE, device: torch.device = CPU) -> tuple[Tensor, list[int]]:
    sizes = [(photo.width, photo.height) for photo in photos]
    pixels, failed = decode_batch([photo.encoded for photo in photos], sizes, transform, device)
    return pixels.permute(0, 2, 3, 1).cpu(), failed


def difference(pixels: Tensor, expected: np.ndarray) -> np.ndarray:
    return np.abs(pixels.numpy().astype(int) - expected)


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with one more segment in front."""
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def changed(data: bytes, marker: int, change: Callable[[bytearray], None]) -> bytes:
    """A JPEG of which the first segment of some kind, marker and all, is changed in place."""
    at = data.index(bytes([0xFF, marker]))
    segment = bytearray(data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
    end = at + len(segment)
    change(segment)
    return data[:at] + bytes(segment) + data[end:]


def byte(place: int, value: int) -> Callable[[bytearray], None]:
    """Sets a byte of a segment, counted from its marker."""
    return lambda segment: segment.__setitem__(place, value)


@settings(max_examples=2000, deadline=None)
@given(
    SIDES,
    SIDES,
    st.sampled_from([(64, 64), (48, 48), (64, 48), (33, 57)]),
    st.sampled_from(["shortest", "squash"]),
    st.sampled_from([0.8, 0.875, 1.0]),
    st.sampled_from(["bicubic", "bilinear"]),
    st.sampled_from(["RGB", "L"]),
)
def test_geometry_and_filter_are_the_transforms(
    width: int, height: int, size: tuple[int, int], resize: str, crop_pct: float, interpolation: str, mode: str
) -> None:
    """Off by a level at each of two roundings at most. Often so only where halves are to be rounded: at 2 to 3, where
    weights are sixths, every sixth value is one, which is up in one arithmetic and down in the other; and a photo one
    pixel high has few values, each as often as its copy has rows."""
    transform = Transform(size, resize, crop_pct, interpolation)  # type: ignore[arg-type]
    assume(max(transform.resized(width, height)) < 5000)
    data = encode(noise(width, height, mode), "JPEG", quality=95)
    found = left(data, transform)
    assert (found is None) == (width == 1)
    if found is None:
        return
    pixels, failed = on_device(found, transform=transform)
    off = difference(pixels[0], on_cpu(data, transform))
    assert failed == []
    assert (found.width, found.height) == (width, height)
    assert off.max() <= 2
    assert off.mean() <= 0.3


@pytest.mark.parametrize("size", [(40, 40), (63, 64), (64, 64), (30, 200), (200, 30)])
def test_black_stands_where_a_photo_is_smaller_than_the_crop(size: tuple[int, int]) -> None:
    """`shortest` never leaves it so; a transform that does not resize would."""

    class Fixed(Transform):
        def resized(self, width: int, height: int) -> tuple[int, int]:
            return width, height

    transform = Fixed((64, 64))
    data = encode(noise(*size), "JPEG")
    found = left(data, transform)
    assert found is not None
    np.testing.assert_array_equal(on_device(found, transform=transform)[0][0], on_cpu(data, transform))


@pytest.mark.parametrize("order", [(100, 300), (300, 100), (60, 243), (100, 150)])
def test_a_photo_is_resized_in_pillows_order(order: tuple[int, int]) -> None:
    """The wrong order is off by ten levels and more."""
    transform = Transform((48, 48), "squash")
    data = encode(noise(*order), "JPEG")
    found = left(data, transform)
    assert found is not None
    assert difference(on_device(found, transform=transform)[0][0], on_cpu(data, transform)).max() <= 2


def test_a_batch_of_many_sizes_is_each_alone() -> None:
    sizes = [(80, 64), (64, 80), (300, 100), (80, 64), (64, 64), (90, 90), (80, 64)]
    photos = [found for i, size in enumerate(sizes) if (found := left(photo(i, size)))]
    pixels, failed = on_device(*photos)
    assert len(photos) == 7
    assert failed == []
    for place, one in enumerate(photos):
        torch.testing.assert_close(pixels[place], on_device(one)[0][0], rtol=0, atol=0)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_usual_jpegs_are_left_to_the_device(subsampling: str) -> None:
    data = encode(noise(90, 70), "JPEG", subsampling=subsampling)
    for one in (data, with_segment(data, 0xE2, b"ICC_PROFILE\0\1\1" + PROFILE), data + b"more bytes behind the end"):
        found = left(one)
        assert found is not None
        assert difference(on_device(found)[0][0], on_cpu(one)).max() <= 2


RGB = noise(90, 70)
PLAIN = encode(RGB, "JPEG")
OTHERS = {
    "progressive": encode(RGB, "JPEG", progressive=True),
    "CMYK": encode(RGB.convert("CMYK"), "JPEG"),
    "turned": images.turned(6, "JPEG"),
    "turned by XMP": with_segment(PLAIN, 0xE1, TURNED_BY_XMP),
    "RGB by Adobe's word": PLAIN[:2] + ADOBE_RGB + PLAIN[20:],
    "RGB by its components' names": encode(RGB, "JPEG", keep_rgb=True),
    "several pictures": encode(RGB, "MPO", save_all=True, append_images=[RGB]),
    "12 bits": changed(PLAIN, 0xC0, byte(4, 12)),
    "extended": changed(PLAIN, 0xC0, byte(1, 0xC1)),
    "lossless": changed(PLAIN, 0xC0, byte(1, 0xC3)),
    "arithmetic": changed(PLAIN, 0xC0, byte(1, 0xC9)),
    "odd sampling": changed(PLAIN, 0xC0, byte(11, 0x42)),
    "no size": changed(PLAIN, 0xC0, byte(6, 0)),
    "huge": changed(PLAIN, 0xC0, lambda segment: segment.__setitem__(slice(5, 9), b"\xea\x60\xea\x60")),
    "a second scan": PLAIN[:-2] + PLAIN[PLAIN.index(b"\xff\xda") :],
    "cut": PLAIN[:-600],
    "without its last byte": PLAIN[:-1],
    "a start alone": PLAIN[:2],
    "zero bytes": b"",
    "text": b"no photo",
    "a PNG": encode(RGB, "PNG"),
    "a thousand scans": images.scans(1000),
    "many segments": images.segments(20_000),
    "more bytes than are passed on": with_segment(PLAIN, 0xFE, bytes(60_000)) + bytes(2**20),
    "one pixel wide": encode(noise(1, 50), "JPEG"),
    "a large reduction": encode(noise(64 * 40, 64 * 40 // 7), "JPEG"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_images_are_left_to_the_cpu(kind: str) -> None:
    assert left(OTHERS[kind], Transform((64, 64), "squash")) is None


def test_the_plain_one_among_them_is_not() -> None:
    """So that each of the others is refused for what it is called after."""
    assert left(PLAIN, Transform((64, 64), "squash")) is not None
    assert left(PLAIN, Transform((64, 64), interpolation="nearest")) is None


def test_photos_are_bounded_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(100, 1000), "JPEG")
    for most, passes in ((10**5, True), (10**5 - 1, False)):
        monkeypatch.setattr(deferred, "MOST_PIXELS", most)
        assert (left(data, Transform((64, 64))) is not None) is passes
    # Resized to 64 x 1000 first, and then to 64 x 64: 100,000 pixels; but to 200 wide, 200,000.
    monkeypatch.setattr(deferred, "MOST_PIXELS", 10**5)
    assert left(data, Transform((200, 200), "squash")) is None


def test_a_region_comes_with_a_photo_or_is_decodes_to_refuse() -> None:
    good, other = (encode(Image.new("L", size, 255), "PNG") for size in ((90, 70), (5, 6)))
    for fields in ({"mask": good}, {"box": (10.0, 10.0, 50.0, 60.0)}):
        found, expected = left(PLAIN, **fields), decode(Sample("k", PLAIN, **fields), SQUARE, LIMIT)  # type: ignore[arg-type]
        assert found is not None
        assert (found.region_kind, found.width, found.height) == (expected.region_kind, 90, 70)
        np.testing.assert_array_equal(found.region, expected.region)
    assert left(PLAIN, mask=other) is None
    assert defer(Sample("k", PLAIN, mask=other), SQUARE, LIMIT, region=False) is not None


def test_one_that_cannot_be_decoded_takes_no_other_with_it() -> None:
    tables = PLAIN.index(b"\xff\xdb")
    without = PLAIN[:tables] + PLAIN[PLAIN.index(b"\xff\xc0") :]
    good, bad = left(PLAIN), left(without)
    assert good is not None
    assert bad is not None
    with pytest.raises(DecodeError):
        on_cpu(without)
    pixels, failed = on_device(good, bad, good)
    assert failed == [1]
    assert not pixels[1].any()
    for place in (0, 2):
        torch.testing.assert_close(pixels[place], on_device(good)[0][0], rtol=0, atol=0)
    assert on_device(bad)[1] == [0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 3000), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_is_decoded_alike_or_refused(places: list[tuple[int, int]]) -> None:
    data = bytearray(photo(3))
    for place, value in places:
        data[place % len(data)] = value
    found = left(bytes(data))
    if found is None:
        return
    pixels, failed = on_device(found)
    if not failed:
        assert difference(pixels[0], on_cpu(bytes(data))).max() <= 2


def test_a_device_that_is_full_is_no_fault_of_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Error while decoding JPEG images: CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(device_jpeg, "decode_jpeg", full)
    found = left(PLAIN)
    assert found is not None
    with pytest.raises(torch.OutOfMemoryError):
        on_device(found, found)


def test_a_device_that_decodes_nothing_is_no_fault_of_the_photos_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    device_jpeg._check.cache_clear()
    monkeypatch.setattr(device_jpeg, "decode_jpeg", none)
    found = left(PLAIN)
    assert found is not None
    for _ in range(2):
        with pytest.raises(ConfigError, match="not compiled with nvJPEG"):
            on_device(found)


def test_photos_are_decoded_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    decoder = device_jpeg.decode_jpeg

    def counted(encoded: list[Tensor], **options: object) -> list[Tensor]:
        groups.append(len(encoded))
        photos: list[Tensor] = decoder(encoded, **options)
        return photos

    monkeypatch.setattr(device_jpeg, "decode_jpeg", counted)
    monkeypatch.setattr(device_jpeg, "MOST_PIXELS", 2 * 90 * 70)
    found = left(PLAIN)
    assert found is not None
    on_device(found)
    groups.clear()
    pixels, failed = on_device(*[found] * 5)
    assert groups == [2, 2, 1]
    assert failed == []
    assert len(pixels) == 5


def test_only_the_device_decoder_needs_torch() -> None:
    command = "import sys, finer_ray.pipeline.loading; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_nvjpeg_is_near_the_cpu() -> None:
    """nvJPEG repeats chroma where libjpeg interpolates it: 4:4:4 is near, 4:2:0 nearer than a few levels on average."""
    for subsampling, bound in (("4:4:4", 1.0), ("4:2:0", 4.0)):
        data = [
            encode(Image.open(io.BytesIO(photo(i, (300, 200), "PNG"))), "JPEG", subsampling=subsampling)
            for i in range(4)
        ]
        photos = [found for one in data if (found := left(one))]
        pixels, failed = on_device(*photos, device=torch.device("cuda"))
        assert failed == []
        for place, one in enumerate(data):
            assert difference(pixels[place], on_cpu(one)).mean() <= bound
