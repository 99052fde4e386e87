"""Files of an export, wherever fsspec reaches."""

import os
import posixpath
import secrets
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from finer_ray.store.tables import write_options

# Rows of a table that are in memory at a time.
BATCH_ROWS = 4096


class Folder:
    """The export's folder: small whole-file reads and writes below one URL.

    A write is all or nothing: local files are renamed into place, object stores do so by themselves.
    """

    def __init__(self, url: str) -> None:
        self.fs: Any
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.local = isinstance(self.fs, LocalFileSystem)
        self.url = self.root if self.local else url.rstrip("/")

    def path(self, name: str) -> str:
        """The path of a file, for this folder's file system."""
        return posixpath.join(self.root, name)

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            content: bytes = self.fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole."""
        path = self.path(name)
        if not self.local:
            self.fs.pipe_file(path, content)
            return
        os.makedirs(posixpath.dirname(path), exist_ok=True)
        draft = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            with open(draft, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            if os.path.exists(draft):
                os.unlink(draft)
            raise

    def names(self, name: str) -> list[str]:
        """Names of the Parquet files in a sub-folder, sorted; none where it does not exist."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self.path(name), detail=False)
        except FileNotFoundError:
            return []
        bases = (posixpath.basename(str(path).rstrip("/")) for path in found)
        return sorted(base for base in bases if base.endswith(".parquet"))

    def remove(self, name: str) -> None:
        """Remove a file or a sub-folder, if it is there."""
        self.fs.invalidate_cache()
        if self.fs.exists(self.path(name)):
            self.fs.rm(self.path(name), recursive=True)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file as a whole, laid out as `write_options` says."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **write_options(table.schema))
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, schema: pa.Schema) -> pa.Table:
        """Read a Parquet file that `write_table` wrote. Raises FileNotFoundError."""
        with self.fs.open(self.path(name), "rb") as file:
            return pq.read_table(file).cast(schema)

    def iter_table(self, name: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of such a file, batch by batch. Raises FileNotFoundError."""
        with self.fs.open(self.path(name), "rb") as file:
            yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns)
