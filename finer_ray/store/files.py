"""Files of an export, wherever fsspec reaches."""

import posixpath
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from finer_ray.retry import patiently
from finer_ray.shards.files import is_local, locate, whole_file
from finer_ray.store.tables import write_options

# Rows of a table that are in memory at a time.
BATCH_ROWS = 4096
T = TypeVar("T")


class Folder:
    """The export's folder: small whole-file reads and writes below one URL.

    A write is all or nothing: local files are renamed into place, object stores do so by themselves. Every method
    raises StoreError where the store refuses, or does not answer for longer than `patience` seconds.
    """

    def __init__(self, url: str, patience: float = 0.0) -> None:
        self.fs: Any
        self.fs, self.root = locate(url)
        self.local = is_local(self.fs)
        self.url = self.root if self.local else url.rstrip("/")
        self.patience = patience

    def path(self, name: str) -> str:
        """The path of a file, for this folder's file system."""
        return posixpath.join(self.root, name)

    def patiently(self, action: Callable[[], T], what: str) -> T:
        """Do something with the store that may be done twice; see `finer_ray.retry.patiently`."""
        return patiently(action, what, self.patience)

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            content: bytes = self._reading(name, lambda: self.fs.cat_file(self.path(name)))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole."""

        def put() -> None:
            if not self.local:
                self.fs.pipe_file(self.path(name), content)
                return
            with whole_file(self.path(name)) as file:
                file.write(content)

        self._writing(name, put)

    def create(self, name: str, content: bytes) -> None:
        """Write a file that must not exist yet; of several that try, one succeeds. Raises FileExistsError.

        Locally, others may see it before its content is there.
        """

        def put() -> None:
            self.fs.makedirs(posixpath.dirname(self.path(name)), exist_ok=True)
            if not self.local:
                self.fs.pipe_file(self.path(name), content, mode="create")
                return
            # fsspec's "create" asks whether the file exists, then opens it: two processes could both succeed.
            with open(self.path(name), "xb") as file:
                file.write(content)

        self._writing(name, put)

    def names(self, name: str, suffix: str = ".parquet") -> list[str]:
        """Names of the files in a sub-folder that end so, sorted; none where it does not exist."""

        def names() -> list[str]:
            self.fs.invalidate_cache()
            return [posixpath.basename(str(path).rstrip("/")) for path in self.fs.ls(self.path(name), detail=False)]

        try:
            return sorted(base for base in self._reading(name, names) if base.endswith(suffix))
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        """Whether there is such a file or sub-folder."""

        def look() -> bool:
            self.fs.invalidate_cache()
            return bool(self.fs.exists(self.path(name)))

        return self._reading(name, look)

    def move(self, name: str, to: str) -> None:
        """Rename a file, if it is there; on object stores it is copied, then removed."""

        def move() -> None:
            self.fs.makedirs(posixpath.dirname(self.path(to)), exist_ok=True)
            self.fs.mv(self.path(name), self.path(to))

        if self.exists(name):
            self._writing(to, move)

    def remove(self, name: str) -> None:
        """Remove a file or a sub-folder, if it is there; another run may do so at the same time."""
        if self.exists(name):
            with suppress(FileNotFoundError):
                self._writing(name, lambda: self.fs.rm(self.path(name), recursive=True))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file as a whole, laid out as `write_options` says."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **write_options(table.schema))
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file that `write_table` wrote, or some of its columns. Raises FileNotFoundError."""

        def read() -> pa.Table:
            with self.fs.open(self.path(name), "rb") as file:
                return pq.read_table(file, columns=columns)

        table = self._reading(name, read)
        return table.cast(schema if columns is None else pa.schema([schema.field(column) for column in columns]))

    def iter_table(self, name: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of such a file, batch by batch. Raises FileNotFoundError."""
        with self.fs.open(self.path(name), "rb") as file:
            yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=columns)

    def count_rows(self, name: str) -> int:
        """Rows of such a file, from its footer. Raises FileNotFoundError."""

        def count() -> int:
            with self.fs.open(self.path(name), "rb") as file:
                return int(pq.read_metadata(file).num_rows)

        return self._reading(name, count)

    def _reading(self, name: str, action: Callable[[], T]) -> T:
        return self.patiently(action, f"read {self.url}/{name}")

    def _writing(self, name: str, action: Callable[[], T]) -> T:
        return self.patiently(action, f"write {self.url}/{name}")
