"""Headers: what an encoded image claims of itself, looked at before a decoder believes it.

Decoders take time and memory by what headers say: a TIFF of 100 bytes may name a tile of gigabytes, a JPEG of
500 kB a thousand scans over all of its pixels. Pillow bounds neither, and decodes some formats in Python.
"""

import re
import struct
from collections.abc import Iterator

from PIL import Image

MAX_SCANS = 100
MAX_SEGMENTS = 10_000
MAX_STRIPS = 500_000
# Of images that Pillow decodes in Python, which takes about 0.4 microseconds a value, whatever the file's size.
MAX_PYTHON_VALUES = 4_000_000
MAX_PYTHON_BYTES = 16 * 2**20
# Each copies up to 1 MiB.
MAX_PPM_COMMENTS = 1000
# Read byte by byte in Python. A header is a magic word, width and height, among blanks and comments.
MAX_PPM_HEADER = 2**16
PPM = re.compile(rb"P([1-6f]|yP|yRGBA|yCMYK)\s|P0CMYK")
PPM_HEADER = re.compile(rb"P\w+((\s|#[^\r\n]*[\r\n])+[^\s#]+){2}")
# In a JPEG's entropy-coded data 0xFF stands before 0, a restart marker, or another 0xFF only.
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
ALONE = (0x01, *range(0xD0, 0xDA))
START_OF_SCAN, END = 0xDA, 0xD9
STRIPS, TILE_WIDTH, TILE_LENGTH, TILES = 273, 322, 323, 324
SIZES = {1: "B", 3: "H", 4: "L", 16: "Q"}


def check_headers(data: bytes, max_pixels: int) -> None:
    """Refuse what would take a decoder minutes or gigabytes. Formats without such traps, and damage, pass.

    Args:
        data: an encoded image.
        max_pixels: that a decoder may make room for at a time.

    Raises:
        ValueError: what it claims, and what is allowed.
    """
    if data[:2] == b"\xff\xd8":
        _check_jpeg(data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(data, max_pixels)
    elif PPM.match(data):
        _check_ppm(data)


def check_decoder(image: Image.Image, size: int) -> None:
    """Refuse an image that Pillow would decode in Python for seconds.

    Args:
        image: opened, and not yet decoded.
        size: bytes of its file.

    Raises:
        ValueError: what it holds, what is allowed, and how to convert it.
    """
    tiles = getattr(image, "tile", ())
    values = image.width * image.height * len(image.getbands())
    if any(tile[0] in Image.DECODERS for tile in tiles) and (values > MAX_PYTHON_VALUES or size > MAX_PYTHON_BYTES):
        kind = (
            "an RLE-compressed BMP"
            if image.format == "BMP"
            else "a PPM in ASCII, or with a largest value other than 255"
        )
        raise ValueError(
            f"{kind}, of {image.width}x{image.height} pixels in {size} bytes: more than the allowed "
            f"{MAX_PYTHON_VALUES} values or {MAX_PYTHON_BYTES} bytes; convert it to PNG"
        )


def _check_jpeg(data: bytes) -> None:
    scans = 0
    for number, marker in enumerate(_markers(data)):
        scans += marker == START_OF_SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
        if number > MAX_SEGMENTS:
            raise ValueError(f"a JPEG of more than {MAX_SEGMENTS} segments")


def _markers(data: bytes) -> Iterator[int]:
    """The markers of the first image in a JPEG file, in order; what stands between them is passed over."""
    at, marker = 2, 0
    while marker != END and (match := MARKER.search(data, at)):
        marker, at = match[1][0], match.end()
        yield marker
        if marker not in ALONE:
            at += int.from_bytes(data[at : at + 2], "big")


def _check_ppm(data: bytes) -> None:
    if not PPM_HEADER.match(data, 0, MAX_PPM_HEADER):
        raise ValueError(f"a PPM without width and height in its first {MAX_PPM_HEADER} bytes")
    if data[1:2] in b"123" and data.count(b"#") > MAX_PPM_COMMENTS:
        raise ValueError(f"a PPM of more than {MAX_PPM_COMMENTS} comments; convert it to PNG")


def _check_tiff(data: bytes, max_pixels: int) -> None:
    tags = _tags(data)
    for tag, name in ((STRIPS, "strips"), (TILES, "tiles")):
        count = tags.get(tag, (0, 0))[0]
        if count > MAX_STRIPS:
            raise ValueError(f"a TIFF of {count} {name}, more than the allowed {MAX_STRIPS}")
    width, length = tags.get(TILE_WIDTH, (0, 0))[1], tags.get(TILE_LENGTH, (0, 0))[1]
    if width * length > max_pixels:
        raise ValueError(f"a TIFF with tiles of {width}x{length}, more pixels than the allowed {max_pixels}")


def _tags(data: bytes) -> dict[int, tuple[int, int]]:
    """Count and first value (where it is a number in the entry itself) of each tag of a TIFF's first directory."""
    order, big = "<>"[data[:1] == b"M"], data[2:4] in (b"+\0", b"\0+")
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHL4s")
    number = struct.Struct(f"{order}{'Q' if big else 'H'}")
    tags: dict[int, tuple[int, int]] = {}
    try:
        (at,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}L", data, 4)
        (count,) = number.unpack_from(data, at)
        for place in range(count):
            tag, kind, values, content = entry.unpack_from(data, at + number.size + place * entry.size)
            (value,) = struct.unpack_from(order + SIZES.get(kind, "B"), content)
            tags.setdefault(tag, (values, value))
    except (struct.error, OverflowError):
        # Damaged or cut off: the decoder says so.
        pass
    return tags
