"""Seeds: small valid inputs from which fuzzers set out."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import photo
from tests.hostile import images
from tests.hostile.kinds import BASE, CONFIGS, LONG

SMALL = (8, 6)


def small(format: str = "PNG") -> bytes:
    """A small photo."""
    return photo(1, SMALL, format)


def tars() -> list[bytes]:
    """Archives in three formats, with extension headers."""
    found = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            for name in ("a", "dir/b", "ü", "k" * 90 if format == tarfile.USTAR_FORMAT else LONG[:300]):
                for ext, body in (("png", small()), ("json", b'{"label": 1, "box_xyxy": [0, 0, 3, 3]}'), ("cls", b"2")):
                    info = tarfile.TarInfo(f"{name}.{ext}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
        found.append(buffer.getvalue())
    return found


def parquets() -> list[bytes]:
    """Tables of both kinds of image columns, packed and not."""
    rows = [{"key": f"k{i}", "image": small(), "label": i, "box_xyxy": [0.0, 0.0, 3.0, 3.0]} for i in range(4)]
    nested = [{"image": {"bytes": small(), "path": "x"}, "label": str(i)} for i in range(3)]
    found = []
    for lines, packing in ((rows, "none"), (rows, "zstd"), (nested, "snappy")):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(lines), buffer, row_group_size=2, compression=packing)
        found.append(buffer.getvalue())
    return found


def pictures() -> list[bytes]:
    """Every format, and the traps that are small."""
    formats = [small(format) for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")]
    odd = [images.tiled(64), images.strips(5), images.turned(6, "TIFF"), images.frames("GIF", 2), images.scans(5, 16)]
    return [*formats, *odd]


def written(target: str, folder: Path) -> Path:
    """A corpus for a target of tests/fuzz/fuzz.py."""
    note = json.dumps({"a": [1, 2, 3, 4], "label": "x"}).encode()
    seeds = {
        "tar": tars(),
        "parquet": parquets(),
        "config": [BASE.encode(), *(text.encode() for _, text, _ in CONFIGS if len(text) < 5000)],
        "notes": [note, b"[1, 2.5, 3e8, 4]", b'"name"', b"17"],
        "image": pictures(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds[target]):
        (folder / f"{number:02d}").write_bytes(seed)
    return folder
