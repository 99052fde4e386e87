"""Kinds of hostile and odd shards: how each is made, and what must become of it.

`python -m tests.hostile.kinds` writes their table into docs/hostile_input.md, and a test holds it to that.
"""

import gzip
import io
import os
import struct
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from finer_ray.config.messages import short_key
from finer_ray.shards import ShardRef
from tests.conftest import Members, photo, sample, write_tar
from tests.hostile import images
from tests.hostile.through import MAX_BYTES

PAGE = Path(__file__).parents[2] / "docs" / "hostile_input.md"
MARK = "<!-- the table below is written by `python -m tests.hostile.kinds` -->\n"
GOOD = ("g0", "g1", "g2", "g3")
LONG = "very/long/" + "k" * 10_000


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: what it is.
        then: what happens, for people.
        make: writes the shard below an empty folder.
        fails: by key, the stage and words of the failure.
        reads: keys of samples that are read beside the good ones, with what their photo must show, or None where
            that is not asked.
        problem: words of what is said of the shard as a whole.
        good: the good samples that must come out as from a clean shard.
    """

    name: str
    then: str
    make: Callable[[Path], ShardRef]
    fails: dict[str, tuple[str, str]] = field(default_factory=dict)
    reads: dict[str, Image.Image | None] = field(default_factory=dict)
    problem: str | None = None
    good: tuple[str, ...] = GOOD


def good(first: int = 0, last: int = 4) -> Members:
    """The good samples g{first} to before g{last}."""
    return [member for i in range(first, last) for member in sample(f"g{i}", i, i, [10, 8, 60, 50])]


def row(number: int) -> dict[str, Any]:
    """A good sample as a Parquet row."""
    return {"key": f"g{number}", "image": photo(number), "label": number, "box_xyxy": [10.0, 8.0, 60.0, 50.0]}


def tar_file(path: Path, content: bytes) -> ShardRef:
    """A shard of these bytes."""
    path.write_bytes(content)
    return ShardRef(str(path), "webdataset")


def among(*members: tuple[str, bytes]) -> Callable[[Path], ShardRef]:
    """Makes a tar of good samples with these members in the middle."""
    return lambda folder: ShardRef(str(write_tar(folder / "a.tar", [*good(0, 2), *members, *good(2, 4)])), "webdataset")


def entries(*infos: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> Callable[[Path], ShardRef]:
    """Makes a tar of good samples with these entries in the middle, whose headers may say anything."""

    def make(folder: Path) -> ShardRef:
        path = folder / "a.tar"
        with tarfile.open(path, "w", format=format) as tar:
            for name, body in good(0, 2):
                tar.addfile(_info(name, body), io.BytesIO(body))
            for info, body in infos:
                tar.addfile(info, io.BytesIO(body))
            for name, body in good(2, 4):
                tar.addfile(_info(name, body), io.BytesIO(body))
        return ShardRef(str(path), "webdataset")

    return make


def _info(name: str, body: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(body), kind, link
    return info


def spoilt(change: Callable[[bytearray, int], Any]) -> Callable[[Path], ShardRef]:
    """Makes a tar of good samples and changes it; the place given is that of the header of g2.jpg."""

    def make(folder: Path) -> ShardRef:
        path = write_tar(folder / "a.tar", good())
        with tarfile.open(path) as tar:
            place = tar.getmember("g2.jpg").offset
        content = bytearray(path.read_bytes())
        changed = change(content, place)
        return tar_file(path, bytes(content if changed is None else changed))

    return make


def _resize(content: bytearray, place: int, size: bytes) -> None:
    content[place + 124 : place + 136] = size
    content[place + 148 : place + 156] = b" " * 8
    content[place + 148 : place + 155] = b"%06o\0" % sum(content[place : place + 512])


def _extension(content: bytearray, place: int, body: bytes) -> bytes:
    header = _info("pax", body, tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    return bytes(content[:place]) + header + body + bytes(-len(body) % 512) + bytes(content[place:])


def _sparse(content: bytearray, place: int) -> None:
    content[place + 156 : place + 157] = tarfile.GNUTYPE_SPARSE
    _resize(content, place, bytes(content[place + 124 : place + 136]))


def table_of(
    bad: list[dict[str, Any]], schema: pa.Schema | None = None, group: int = 2, **options: Any
) -> Callable[[Path], ShardRef]:
    """Makes a Parquet shard: two good rows, the bad ones, two good rows; row groups of `group` rows."""

    def make(folder: Path) -> ShardRef:
        rows = [row(0), row(1), *bad, row(2), row(3)]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet", row_group_size=group, **options)
        return ShardRef(str(folder / "a.parquet"), "parquet")

    return make


def parquet_file(change: Callable[[bytes], bytes], **options: Any) -> Callable[[Path], ShardRef]:
    """Makes a Parquet shard of good rows and changes its bytes."""

    def make(folder: Path) -> ShardRef:
        ref = table_of([], compression="none", **options)(folder)
        Path(ref.url).write_bytes(change(Path(ref.url).read_bytes()))
        return ref

    return make


def _damaged(content: bytes) -> bytes:
    """With a header of the first page of images overwritten."""
    place = content.index(b"\xff\xd8\xff") - 14
    return content[:place] + b"\xff" * 10 + content[place + 10 :]


def _dictionary(folder: Path) -> ShardRef:
    """Rows that repeat one value of 3 MB, which stands in the file once."""
    rows = [row(0), row(1), *({**row(9), "key": f"b{i}", "image": bytes(3 * 2**20)} for i in range(40)), row(2), row(3)]
    table = pa.Table.from_pylist(rows)
    path = folder / "a.parquet"
    pq.write_table(table, path, row_group_size=42, dictionary_pagesize_limit=2**28, compression="none")
    return ShardRef(str(path), "parquet")


def _one_type(kind: pa.DataType, values: list[Any]) -> Callable[[Path], ShardRef]:
    def make(folder: Path) -> ShardRef:
        table = pa.table({"key": ["b0", "b1"], "image": pa.array(values, kind)})
        pq.write_table(table, folder / "a.parquet")
        return ShardRef(str(folder / "a.parquet"), "parquet")

    return make


def _many_rows(folder: Path) -> ShardRef:
    pq.write_table(pa.table({"image": pa.nulls(10**6, pa.binary())}), folder / "a.parquet")
    return ShardRef(str(folder / "a.parquet"), "parquet")


def image_folder(fill: Callable[[Path], None]) -> Callable[[Path], ShardRef]:
    """Makes an image folder of the good photos, with something else in it."""

    def make(folder: Path) -> ShardRef:
        root = folder / "root"
        (root / "0").mkdir(parents=True)
        for i in range(4):
            (root / "0" / f"g{i}.jpg").write_bytes(photo(i))
        fill(root)
        return ShardRef(str(root), "folder")

    return make


def _links(root: Path) -> None:
    secret = root.parent / "secret.jpg"
    secret.write_bytes(photo(50))
    (root / "0" / "out.jpg").symlink_to(secret)
    (root / "0" / "loop.jpg").symlink_to("loop.jpg")
    (root / "0" / "up").symlink_to("..")
    (root / "0" / "system.jpg").symlink_to("/etc/passwd")


def _unread_checksum(content: bytes) -> bytes:
    """With a pixel or two of the first image overwritten, which its page's checksum tells."""
    place = content.index(b"\xff\xd8\xff") + 700
    return content[:place] + b"\0" * 40 + content[place + 40 :]


def _linked(root: Path) -> None:
    (root / "0" / "inside.jpg").symlink_to("g1.jpg")


def _pipe(root: Path) -> None:
    os.mkfifo(root / "0" / "pipe.jpg")


FOLDER = tuple(f"0/{key}.jpg" for key in GOOD)
TOO_LARGE = "more than the allowed"


def image_kinds() -> list[Kind]:
    """One image as `b.jpg` among good samples: those that fail, then those that are odd and read all the same."""
    wide = Image.fromarray(np.asarray(images.plain("L")).astype(np.uint16) * 257)
    nothing = np.asarray(images.plain("L"), np.float32) / 255
    nothing[0, 0] = np.nan
    palette = images.plain().quantize(16)
    rgb, grey = images.plain(), images.plain("L")
    many_pixels = images.encode(Image.new("1", (20_000, 20_000)), "PNG")
    bad: list[tuple[str, bytes, str]] = [
        ("an image of zero bytes", b"", "no image of a known format"),
        ("text, a web page, SVG or PostScript called .jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image of a known format"),
        ("an archive called .jpg", gzip.compress(b"x"), "no image of a known format"),
        ("a cut JPEG", photo(9)[:600], "Truncated"),
        ("a cut PNG", photo(9, format="PNG")[:600], "truncated"),
        ("a PNG whose header claims 60,000 x 60,000", images.png(60_000, 60_000), "more pixels than the allowed"),
        ("a PNG bomb, 400 million pixels in 49 kB", many_pixels, "more pixels than the allowed"),
        ("a GIF that claims 65,535 x 65,535", b"GIF89a" + b"\xff" * 7, "decode"),
        (
            "a PNG text bomb (zTXt)",
            images.png(10, 10, images.chunk(b"zTXt", b"k\0\0" + images.packed_zeros(2**28))),
            "Decompressed data too large",
        ),
        (
            "a PNG colour profile bomb (iCCP)",
            images.png(10, 10, images.chunk(b"iCCP", b"k\0\0" + images.packed_zeros(2**28))),
            "Decompressed data too large",
        ),
        ("a JPEG of 1000 progressive scans", images.scans(1000), "more than 100 scans"),
        ("a JPEG of 20,000 empty segments", images.segments(20_000), "more than 10000 segments"),
        ("a PPM of 500,000 comments", b"P2 10 10 255\n" + b"#\n" * 500_000, "more than 1000 comments"),
        ("a TIFF with a tile of 46,000 x 46,000", images.tiled(46_000), "tiles of 46000x46000"),
        (
            "a TIFF of a billion strips",
            images.tiff(images.grey_tiff(t273=(4, 10**9, 0)), bytes(100)),
            "1000000000 strips",
        ),
        ("a TIFF whose strip lies behind the file", images.tiff(images.grey_tiff(t273=(4, 1, 10**6))), "truncated"),
        ("a TIFF whose directory is itself", b"II*\0" + struct.pack("<IHHHII", 8, 1, 8, 1, 1, 8), "decode"),
    ]
    odd: list[tuple[str, bytes, Image.Image | None]] = [
        ("a PNG, WebP, ... called .jpg", images.encode(rgb, "PNG"), rgb),
        ("one pixel", images.encode(Image.new("RGB", (1, 1), "red"), "PNG"), Image.new("RGB", (80, 64), "red")),
        ("65,000 pixels by one", images.encode(Image.new("L", (65_000, 1), 200), "PNG"), None),
        ("a CMYK JPEG", images.encode(rgb.convert("CMYK"), "JPEG"), None),
        ("grey of 16 bits", images.encode(wide, "PNG"), grey.convert("RGB")),
        ("floating-point grey with NaN, as 0", images.encode(Image.fromarray(nothing), "TIFF"), None),
        (
            "a small RLE-compressed BMP",
            images.rle_bmp(80, 64, b"\x50\7\0\0" * 64),
            Image.new("RGB", (80, 64), (7,) * 3),
        ),
        ("a palette", images.encode(palette, "PNG"), palette.convert("RGB")),
        (
            "a palette with a transparent colour, and alpha: over white",
            images.encode(Image.new("RGBA", (80, 64), (1, 2, 3, 0)).quantize(4), "PNG", transparency=0),
            Image.new("RGB", (80, 64), "white"),
        ),
        ("an animated GIF: its first frame", images.frames("GIF"), None),
        ("an animated PNG: its first frame", images.frames("PNG"), rgb),
        ("an animated WebP: its first frame", images.frames("WEBP"), rgb),
        ("a TIFF that EXIF turns", images.turned(6, "TIFF"), rgb),
        (
            "damaged EXIF data: as if there were none",
            images.encode(rgb, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
            rgb,
        ),
        ("a TIFF whose 2000 tags all claim the same 100 kB", images.overlapping_tags(2000, 10**5), None),
        ("a TIFF of 10,000 strips", images.strips(10_000), None),
    ]
    odd += [(f"EXIF orientation {turn}", images.turned(turn, "PNG"), rgb) for turn in range(2, 9)]
    failing = [
        Kind(name, f"failure, stage decode: {words}", among(("b.jpg", data)), {"b": ("decode", words)})
        for name, data, words in bad
    ]
    reading = [Kind(name, "read", among(("b.jpg", data)), reads={"b": shown}) for name, data, shown in odd]
    return failing + reading


def note_kinds() -> list[Kind]:
    """One good photo with a hostile annotation."""
    deep = b"[" * 100_000
    mask = images.encode(Image.new("L", (5, 6), 1), "PNG")
    bomb = images.png(60_000, 60_000)
    cases: list[tuple[str, str, bytes, str, str]] = [
        ("JSON that is none", "json", b"{", "read", "json: not valid JSON"),
        ("JSON nested 100,000 deep", "json", deep, "read", "json: not valid JSON"),
        ("JSON that is no object", "json", b"[1]", "read", "expected an object"),
        ("JSON of 2 MiB where 1 is allowed", "json", b" " * 2**21, "read", TOO_LARGE),
        ("a number of 5000 digits", "json", b'{"label": ' + b"9" * 5000 + b"}", "read", "json: not valid JSON"),
        ("a label beyond 64 bits", "json", b'{"label": 1e30}', "read", "out of the range of 64-bit integers"),
        ("a label that is NaN", "json", b'{"label": NaN}', "read", "label must be an integer"),
        ("a label with a fraction, or a list of such", "json", b'{"label": [1.5]}', "read", "label must be an integer"),
        ("a class name of 100 kB", "cls", b"x" * 100_000, "read", "more than 1000 characters"),
        ("a label that is not UTF-8", "cls", b"\xff\xfe", "read", "not UTF-8 text"),
        ("a box with NaN or infinity", "json", b'{"box_xyxy": [0, 0, NaN, 5]}', "read", "must be finite"),
        ("an empty or reversed box", "json", b'{"box_xyxy": [9, 9, 1, 1]}', "read", "an empty box"),
        ("a box of three numbers", "json", b'{"box_xyxy": [1, 2, 3]}', "read", "a list of 4 numbers"),
        ("a mask of another size", "mask.png", mask, "region", "5x6 pixels, where the photo as displayed has 80x64"),
        ("a mask of zero bytes", "mask.png", b"", "region", "no image of a known format"),
        ("a mask that is a bomb", "mask.png", bomb, "region", "more pixels than the allowed"),
    ]
    return [
        Kind(
            name,
            f"failure, stage {stage}: {words}",
            among(("b.jpg", photo(9)), (f"b.{ext}", body)),
            {"b": (stage, words)},
        )
        for name, ext, body, stage, words in cases
    ]


def tar_kinds() -> list[Kind]:
    """Archives that lie or break, and names that are odd."""
    before = GOOD[:2]
    named = {"../../up": None, "/abs/olute": None, "C:\\win": None, "a\nb": None}
    unicode = {"ключ/鳥 ✓": None, "e\u0301": None, "\u202egpj": None, "😀" * 20: None}
    links = [
        (_info("link.jpg", kind=tarfile.SYMTYPE, link="../../../etc/passwd"), b""),
        (_info("hard.jpg", kind=tarfile.LNKTYPE, link="/etc/passwd"), b""),
    ]
    inside = [
        (_info("link.jpg", kind=tarfile.SYMTYPE, link="./g0.jpg"), b""),
        (_info("hard.jpg", kind=tarfile.LNKTYPE, link="g0.jpg"), b""),
    ]
    first = Image.open(io.BytesIO(photo(0)))
    others = [
        (_info("device.jpg", kind=tarfile.CHRTYPE), b""),
        (_info("pipe.jpg", kind=tarfile.FIFOTYPE), b""),
        (_info("folder.jpg", kind=tarfile.DIRTYPE), b""),
    ]
    photos = {name: photo(20 + i) for i, name in enumerate([*named, *unicode, LONG])}
    rest = "the shard is named, samples before the fault are kept"

    def odd(names: dict[str, None]) -> Callable[[Path], ShardRef]:
        return entries(*((_info(f"{name}.jpg", photos[name]), photos[name]) for name in names))

    return [
        Kind("a tar cut inside a member", rest, spoilt(lambda c, at: c[: at + 700]), problem="truncated", good=before),
        Kind("a tar cut inside a header", rest, spoilt(lambda c, at: c[: at + 100]), problem="truncated", good=before),
        Kind(
            "a header that claims more bytes than there are",
            rest,
            spoilt(lambda c, at: _resize(c, at, b"77777777777\0")),
            problem="inside member 'g2.jpg'",
            good=before,
        ),
        Kind(
            "a header that claims fewer bytes",
            rest,
            spoilt(lambda c, at: _resize(c, at, b"00000000010\0")),
            problem="no member header where one must be",
            # The member itself may end as it likes: it is decoded, and named where that fails.
            fails={"g2": ("decode", "Truncated")},
            good=before,
        ),
        Kind(
            "a header that claims a negative size",
            rest,
            spoilt(lambda c, at: _resize(c, at, b"\xff" * 12)),
            problem="a negative size",
            good=before,
        ),
        Kind(
            "garbage between members",
            rest,
            spoilt(lambda c, at: c[:at] + os.urandom(512) + c[at:]),
            problem="no member header where one must be",
            good=before,
        ),
        Kind(
            "a pax header whose lengths lie",
            rest,
            spoilt(lambda c, at: _extension(c, at, b"999 path=x\n")),
            problem="a pax header that cannot be parsed",
            good=before,
        ),
        Kind(
            "a pax header of 2 MiB",
            rest,
            spoilt(lambda c, at: _extension(c, at, b"%d comment=%s\n" % (2**21, b"x" * (2**21 - 17)))),
            problem="an extension header of 20971",
            good=before,
        ),
        Kind("a sparse member", rest, spoilt(_sparse), problem="is sparse", good=before),
        Kind(
            "two tars, one after the other",
            rest,
            spoilt(lambda c, at: bytes(c) + bytes(c)),
            problem="yet data from byte",
        ),
        Kind(
            "a tar of zero bytes",
            "the shard is named",
            lambda f: tar_file(f / "a.tar", b""),
            problem="truncated",
            good=(),
        ),
        Kind(
            "a compressed tar",
            "the shard is named, with the packer",
            spoilt(lambda c, at: gzip.compress(bytes(c))),
            problem="not a tar archive but gzip: unpack it first",
            good=(),
        ),
        Kind(
            "something else called .tar",
            "the shard is named",
            lambda f: tar_file(f / "a.tar", b"PK\x03\x04" * 1000),
            problem="not a tar archive",
            good=(),
        ),
        Kind("keys with ../, absolute paths, line breaks", "read; keys are text, never paths", odd(named), reads=named),
        Kind("keys in any script and direction", "read", odd(unicode), reads=unicode),
        Kind(
            "a key of 10,000 characters",
            "read; beyond 4096 characters a key ends in its digest",
            odd({LONG: None}),
            reads={short_key(LONG): None},
        ),
        Kind(
            "a key that is not UTF-8",
            "read; bytes become escapes",
            entries((_info("caf\udce9.jpg", photo(9)), photo(9)), format=tarfile.GNU_FORMAT),
            reads={"caf\\xe9": None},
        ),
        Kind("devices, pipes and folders named like images", "passed over", entries(*others)),
        Kind(
            "links out of an archive, or to nothing",
            "failure, stage read; never followed",
            entries(*links),
            dict.fromkeys(("link", "hard"), ("read", "which is no file of this archive")),
        ),
        Kind("links to files of the archive", "read", entries(*inside), reads={"link": first, "hard": first}),
        Kind(
            "a file name with dots before its suffix, as `a.final.jpg`",
            "failure, stage read; its extension is named",
            among(("b.final.jpg", photo(9))),
            {"b": ("read", "this one's extension is '.final.jpg'")},
        ),
        Kind(
            "annotations that do not lie beside their image",
            "the image is read without them; failure, stage read",
            among(("b.jpg", photo(9)), ("c.jpg", photo(9)), ("b.cls", b"1")),
            {"b": ("read", "its image is sample 2 of the shard")},
            reads={"b": None, "c": None},
        ),
        Kind(
            "two images of one sample",
            "failure, stage read",
            among(("b.jpg", photo(9)), ("b.jpg", photo(9))),
            {"b": ("read", "two members of one sample end in .jpg")},
        ),
        Kind(
            "one key twice in a shard",
            "read, as two samples",
            among(("b.jpg", photo(9)), ("c.jpg", photo(9)), ("b.jpg", photo(10))),
            reads={"b": None, "c": None},
        ),
        Kind(
            "annotations without image",
            "failure, stage read",
            among(("b.json", b"{}")),
            {"b": ("read", "no image member")},
        ),
        Kind(
            "a member above `input.max_member_bytes`",
            "failure, stage read",
            among(("b.jpg", bytes(MAX_BYTES + 1))),
            {"b": ("read", TOO_LARGE)},
        ),
    ]


def parquet_kinds() -> list[Kind]:
    """Tables with wrong types, nulls and bombs."""
    group = "failure of that row group's rows, stage read"
    packed = pa.schema([("key", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    bad = {**row(9), "key": "b"}
    wrong = {"b0": ("read", "expected image bytes"), "b1": ("read", "expected image bytes")}
    return [
        Kind("a null image", "failure, stage read", table_of([{**bad, "image": None}]), {"b": ("read", "image: null")}),
        Kind(
            "a path in place of an image",
            "failure, stage read",
            _one_type(packed.field("image").type, [{"bytes": None, "path": "/etc/passwd"}] * 2),
            {f"b{i}": ("read", "image bytes are not embedded") for i in range(2)},
            good=(),
        ),
        Kind("numbers for images", "failures, stage read", _one_type(pa.int64(), [1, 2]), wrong, good=()),
        Kind("text for images", "failures, stage read", _one_type(pa.string(), ["a", "b"]), wrong, good=()),
        Kind("lists for images", "failures, stage read", _one_type(pa.list_(pa.int8()), [[1], [2]]), wrong, good=()),
        Kind(
            "no image column",
            "the shard is named, with its columns",
            lambda f: (
                pq.write_table(pa.table({"x": [1]}), f / "a.parquet"),
                ShardRef(str(f / "a.parquet"), "parquet"),
            )[1],
            problem="no column for the image: looked for image, jpg, jpeg, png, webp; columns: x",
            good=(),
        ),
        Kind(
            "a box of a million numbers",
            "failure, stage read",
            table_of([{**bad, "box_xyxy": [0.5] * 10**6}]),
            {"b": ("read", "a box must be a list of 4 numbers")},
        ),
        Kind(
            "a Parquet image above `input.max_member_bytes`",
            "failure, stage read, before it is copied",
            table_of([{**bad, "image": os.urandom(MAX_BYTES + 1)}]),
            {"b": ("read", TOO_LARGE)},
        ),
        Kind(
            "a value of 3 MB that 40 rows repeat at no cost",
            "failures, stage read; rows are unpacked singly",
            _dictionary,
            {f"b{i}": ("read", TOO_LARGE) for i in range(40)},
        ),
        Kind(
            "a damaged page",
            group,
            parquet_file(_damaged),
            {"g0": ("read", "row group 0 cannot be read"), "g1": ("read", "row group 0 cannot be read")},
            good=("g2", "g3"),
        ),
        Kind(
            "a damaged page that only its checksum tells",
            group,
            parquet_file(_unread_checksum, write_page_checksum=True),
            {f"g{i}": ("read", "CRC checksum verification failed") for i in range(2)},
            good=("g2", "g3"),
        ),
        Kind(
            "a Parquet file without its end",
            "the shard is named",
            parquet_file(lambda b: b[: len(b) // 2]),
            problem="Parquet magic bytes not found",
            good=(),
        ),
        Kind(
            "a Parquet file of zero bytes",
            "the shard is named",
            parquet_file(lambda b: b""),
            problem="Parquet file size is 0 bytes",
            good=(),
        ),
        Kind(
            "a footer of more rows than bytes", "the shard is named", _many_rows, problem="claims 1000000 rows", good=()
        ),
    ]


def folder_kinds() -> list[Kind]:
    """Image folders."""
    return [
        Kind(
            "links out of an image folder, in circles, to folders",
            "failure, stage read; never followed",
            image_folder(_links),
            {f"0/{name}": ("read", "a link out of the folder") for name in ("out.jpg", "loop.jpg", "up", "system.jpg")},
            good=FOLDER,
        ),
        Kind(
            "links to files of the image folder",
            "read",
            image_folder(_linked),
            reads={"0/inside.jpg": Image.open(io.BytesIO(photo(1)))},
            good=FOLDER,
        ),
        Kind("a named pipe called .jpg", "passed over", image_folder(_pipe), good=FOLDER),
        Kind(
            "a file of zero bytes",
            "failure, stage decode",
            image_folder(lambda root: (root / "0" / "zero.jpg").touch()),
            {"0/zero.jpg": ("decode", "no image of a known format")},
            good=FOLDER,
        ),
        Kind(
            "a file name that is not UTF-8",
            "read; bytes become escapes",
            image_folder(
                lambda root: Path(os.fsdecode(os.fsencode(root / "0") + b"/\xff.jpg")).write_bytes(photo(9)) and None
            ),
            reads={"0/\\xff.jpg": None},
            good=FOLDER,
        ),
    ]


KINDS = [*tar_kinds(), *image_kinds(), *note_kinds(), *parquet_kinds(), *folder_kinds()]

BASE = "input: {shards: a.tar}\nmodel: {backbone: 'timm:test_resnet', weights: random}\noutput: {url: out}\n"
# Name, text, words of the refusal.
CONFIGS: list[tuple[str, str, str]] = [
    ("nested 500,000 deep", BASE + "x: " + "[" * 500_000, "recursion"),
    ("a file of 2 MiB", BASE + "#" * 2**21, "longer than 1048576 bytes"),
    ("a number of 5000 digits", BASE + "x: " + "9" * 5000, "limit"),
    ("a hexadecimal number of 9000 digits", BASE + "compute: {batch_size: 0x" + "f" * 9000 + "}", "more than 64 bits"),
    ("a date that is none", BASE + "x: 2020-99-99", "month must be in 1..12"),
    (
        "a tag that runs code",
        BASE + "x: !!python/object/apply:os.system ['touch pwned']",
        "could not determine a constructor",
    ),
    ("one section twice", BASE + BASE, "the key 'input' stands twice"),
    ("bytes that are no text", BASE + "x: \0", "special characters are not allowed"),
    ("sections of wrong types", "input: 3\nmodel: [1]\noutput: null\n", "Input should be a valid dictionary"),
    ("keys of wrong types", BASE + "1.5: 2", "Keys should be strings"),
    ("20,000 unknown keys", BASE + "".join(f"k{i}: 1\n" for i in range(20_000)), "and 19980 more"),
    ("an unknown key of 9000 characters", BASE + "? " + "k" * 9000 + "\n: 1\n", "unknown key"),
    ("gamma that is NaN", BASE + "saliency: {gamma: .nan}", r"saliency.gamma"),
    (
        "an image size of a million",
        BASE.replace("random}", "random, image_size: 1000000}"),
        "less than or equal to 8192",
    ),
]
OTHERS = [
    (
        "a Parquet row group of more than 256 MiB that unpacks to more than 50 times its file",
        "failure of its rows, stage read: a decompression bomb",
    ),
    ("an RLE-compressed BMP of 1 kB and 100 million pixels", "failure, stage decode: an RLE-compressed BMP"),
    (
        "a PPM in ASCII, or with a largest value other than 255 (in grey also 65535), of 5 million pixels",
        "failure, stage decode: a PPM in ASCII, or with a largest value other than 255",
    ),
    ("a pickled checkpoint with code in it", "refused before any work; the code does not run"),
    ("weights that hold NaN", "refused before any work"),
    ("weights that are finite and give NaN", "failures, stage model"),
    (
        "a label that the model has no class for",
        "read, and the label is null; failure, stage label, where the target is the label or a concept by label",
    ),
    ("a range of a billion shards, `{0..999999999}`", "refused before any work"),
]


def table() -> str:
    """What the page says of every kind."""
    lines = ["| input | what happens |", "|---|---|"]
    lines += [f"| {kind.name} | {kind.then} |" for kind in KINDS]
    lines += [f"| a config with {name} | refused before any work: {words} |" for name, _, words in CONFIGS]
    lines += [f"| {name} | {then} |" for name, then in OTHERS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(text + MARK + "\n" + table(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name}: {len(KINDS) + len(CONFIGS) + len(OTHERS)} kinds\n")
