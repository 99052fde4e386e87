"""Images that are odd or hostile, byte by byte where no encoder would write them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.conftest import photo

SIZE = (80, 64)


def plain(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A photo in some mode."""
    return Image.open(io.BytesIO(photo(77, size, "PNG"))).convert(mode)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int = 10, height: int = 10, *chunks: bytes) -> bytes:
    """A grey PNG of one row of data, whatever size it claims; further chunks come before the data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 11 * min(height, 10)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


def packed_zeros(size: int) -> bytes:
    """As zlib packs them, about 1000 to 1."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(size >> 20)) + packer.flush()


def scans(count: int, size: int = 512) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encode(Image.new("L", (size, size), 128), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xc4") : -2]
    return data[:-2] + last * count + data[-2:]


def segments(count: int) -> bytes:
    """A JPEG with that many empty comments."""
    data = photo(78)
    return data[:2] + b"\xff\xfe\0\2" * count + data[2:]


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of one directory {tag: (type, count, value)}, and data after it, at `tiff_end` of as many tags."""
    entries = [struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + data


def tiff_end(count: int) -> int:
    """Where data begin after so many tags."""
    return 8 + 2 + 12 * count + 4


def grey_tiff(**changes: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """Tags of a 10x10 grey TIFF in one strip; changes are given as t273=(type, count, value)."""
    tags = {256: 10, 257: 10, 258: 8, 259: 1, 262: 1, 273: tiff_end(9), 277: 1, 278: 10, 279: 100}
    found = {tag: (4, 1, value) for tag, value in tags.items()}
    return {**found, **{int(name[1:]): value for name, value in changes.items()}}


def tiled(side: int) -> bytes:
    """A 10x10 TIFF of one deflated tile of that side, which is not there."""
    tags = grey_tiff(t259=(4, 1, 8), t322=(4, 1, side), t323=(4, 1, side), t324=(4, 1, 0), t325=(4, 1, 4))
    return tiff({tag: value for tag, value in tags.items() if tag not in (273, 278, 279)}, bytes(16))


def strips(count: int) -> bytes:
    """A TIFF a pixel wide with a strip per row, all of them at one place."""
    end, places = tiff_end(9), struct.pack(f"<{count}I", *[4] * count)
    many = (4, count, end)
    return tiff(grey_tiff(t256=(4, 1, 1), t257=(4, 1, count), t278=(4, 1, 1), t273=many, t279=many), places)


def overlapping_tags(count: int, size: int) -> bytes:
    """A TIFF whose tags all hold the same bytes."""
    tags = grey_tiff()
    used = [tag for tag in range(1000, 65000) if tag not in tags][:count]
    end = tiff_end(len(tags) + count)
    tags[273] = (4, 1, end)
    return tiff({**tags, **dict.fromkeys(used, (7, size, end))}, bytes(size))


def rle_bmp(width: int, height: int, runs: bytes, four_bits: bool = False) -> bytes:
    """A BMP of a grey palette, run-length encoded, with 8 bits a pixel or 4."""
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    head = struct.pack("<IiiHH", 40, width, height, 1, 4 if four_bits else 8)
    head += struct.pack("<IIiiII", 2 if four_bits else 1, len(runs), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + palette + runs


def exif(orientation: int) -> Image.Exif:
    """EXIF data of that orientation alone."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found


TURNED = {
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


def turned(orientation: int, format: str) -> bytes:
    """The plain photo, stored turned, with the orientation that turns it back."""
    stored = plain()
    for turn in TURNED.get(orientation, []):
        stored = stored.transpose(turn)
    return encode(stored, format, exif=exif(orientation))


def frames(format: str, count: int = 200) -> bytes:
    """The plain photo, and after it as many others."""
    rest = [Image.fromarray(np.full((64, 80, 3), i, np.uint8)) for i in range(count)]
    lossless = {"lossless": True} if format == "WEBP" else {}
    return encode(plain(), format, save_all=True, append_images=rest, **lossless)
