"""Writers: entries into WebDataset or Parquet shards, as the readers' default fields expect them.

The same entries give the same bytes, and images are never encoded anew.
"""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from finer_ray.datasets.entry import Entry

# Readers go through a row group from its beginning, so that small ones suit small units of work.
ROWS_PER_GROUP = 32
SCHEMA = pa.schema(
    [
        pa.field("__key__", pa.string(), nullable=False),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("label", pa.int64()),
        pa.field("name", pa.string()),
        pa.field("box_xyxy", pa.list_(pa.float64())),
        pa.field("mask", pa.binary()),
        pa.field("segmentation", pa.binary()),
        pa.field("split", pa.string()),
        pa.field("json", pa.string()),
    ]
)


class Writer(ABC):
    """A shard being written to an open file; used as a context, at whose end the shard is whole.

    Attributes:
        suffix: of the shard's name.
    """

    suffix: str

    @abstractmethod
    def __init__(self, file: BinaryIO) -> None: ...

    @abstractmethod
    def write(self, entry: Entry) -> None:
        """Append an entry."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left; the file stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TarWriter(Writer):
    """WebDataset: KEY.jpg (or what the image is), KEY.json, KEY.mask.png and KEY.segmentation.png."""

    suffix = ".tar"

    def __init__(self, file: BinaryIO) -> None:
        # Here, because it imports torch, and the command line asks for the names of all writers.
        import webdataset

        self._tar = webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="")

    def write(self, entry: Entry) -> None:
        """Append an entry."""
        members: dict[str, Any] = {
            "__key__": entry.record.key,
            entry.suffix: entry.image,
            "json": entry.record.to_json(entry.box).encode(),
            "mask.png": entry.mask,
            "segmentation.png": entry.segmentation,
        }
        self._tar.write({name: body for name, body in members.items() if body is not None})

    def close(self) -> None:
        """Write the closing blocks."""
        self._tar.close()


class ParquetWriter(Writer):
    """Parquet: a row per image, the image as a struct of bytes and path as Hugging Face's data sets have it."""

    suffix = ".parquet"

    def __init__(self, file: BinaryIO) -> None:
        packed = dict.fromkeys(("__key__", "json", "name", "segmentation"), "zstd")
        self._parquet = pq.ParquetWriter(
            file,
            SCHEMA,
            compression={**dict.fromkeys(_leaves(), "none"), **packed},
            use_dictionary=["name", "split"],
            write_statistics=["label", "split"],
        )
        self._rows: list[dict[str, Any]] = []

    def write(self, entry: Entry) -> None:
        """Append an entry."""
        record = entry.record
        self._rows.append(
            {
                "__key__": record.key,
                "image": {"bytes": entry.image, "path": f"{record.key}.{entry.suffix}"},
                "label": record.label,
                "name": record.name,
                "box_xyxy": entry.box,
                "mask": entry.mask,
                "segmentation": entry.segmentation,
                "split": record.split,
                "json": record.to_json(entry.box),
            }
        )
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._flush()
        self._parquet.close()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows = []


WRITERS: dict[str, type[Writer]] = {"webdataset": TarWriter, "parquet": ParquetWriter}


def _leaves() -> list[str]:
    """Columns as Parquet names them, those inside structs and lists too."""
    return [*(name for name in SCHEMA.names if name not in ("image", "box_xyxy")), "image.bytes", "image.path"]
