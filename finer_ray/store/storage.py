"""Files of an export, wherever fsspec reaches."""

import errno
import fcntl
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from finer_ray.errors import LeaseError
from finer_ray.retry import retry
from finer_ray.shards.files import is_local, locate, whole_file
from finer_ray.store.tables import conform, write_options

# Rows of a table that are in memory at a time.
BATCH_ROWS = 4096
# Held while a manifest is compared and replaced: locally by every process that does so, else by this one alone.
LOCK_FILE = "lease/lock"
LOCK_SECONDS, LOCK_POLL_SECONDS = 10.0, 0.05
_LOCK = threading.Lock()
# What S3 answers where the condition of a write does not hold, or another write is under way.
CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict")
T = TypeVar("T")


class Folder:
    """The export's folder: small whole-file reads and writes below one URL.

    A write is all or nothing: local files are renamed into place, object stores do so by themselves. Every method
    raises StoreError where the store refuses, or does not answer for longer than `retry_seconds` seconds.
    """

    def __init__(self, url: str, retry_seconds: float = 0.0) -> None:
        self.fs: Any
        self.fs, self.root = locate(url)
        self.local = is_local(self.fs)
        self.url = self.root if self.local else url.rstrip("/")
        self.retry_seconds = retry_seconds

    def path(self, name: str) -> str:
        """The path of a file, for this folder's file system."""
        return posixpath.join(self.root, name)

    def retry(self, action: Callable[[], T], what: str) -> T:
        """Do something with the store that may be done twice; see `finer_ray.retry.retry`."""
        return retry(action, what, self.retry_seconds)

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

    def replace(self, name: str, content: bytes | None, expected: bytes | None) -> None:
        """Write a file as a whole, or remove it, if it still is what it was when it was read (compare and swap).

        Of several processes that have read the same, one succeeds: on local file systems by a lock, on S3 by a
        conditional write. Other stores are read again just before.

        Args:
            name: of the file.
            content: to write; None removes the file.
            expected: what was read; None where there was no such file.

        Raises:
            LeaseError: the file is not as expected: another run has written it.
        """

        def put() -> None:
            with self._locked():
                tag = self._entity_tag(name)
                now = self.read(name)
                if now == content:
                    # Written by an attempt whose answer was lost.
                    return
                if now != expected:
                    raise LeaseError(_CHANGED.format(place=f"{self.url}/{name}"))
                if content is None:
                    self.fs.rm(self.path(name))
                elif self.local:
                    self.write(name, content)
                elif now is None:
                    self.fs.pipe_file(self.path(name), content, mode="create")
                else:
                    self._overwrite(name, content, tag)

        try:
            self._writing(name, put)
        except FileExistsError:
            if self.read(name) != content:
                raise LeaseError(_CHANGED.format(place=f"{self.url}/{name}")) from None

    def _overwrite(self, name: str, content: bytes, tag: str | None) -> None:
        """Write a file on a store where it still has this entity tag. Raises FileExistsError where it has another."""
        try:
            self.fs.pipe_file(self.path(name), content, **({"IfMatch": tag} if tag else {}))
        except OSError as error:
            response = getattr(error.__cause__, "response", None) or {}
            if response.get("Error", {}).get("Code") in CONDITION_FAILED:
                raise FileExistsError(name) from error
            if tag is None or error.errno != errno.ENOSYS:
                raise
            # A server that speaks S3's protocol, but not its conditions.
            self._overwrite(name, content, None)

    def _entity_tag(self, name: str) -> str | None:
        """Of a file on S3, which takes it as a condition of a write; None elsewhere, and where there is no file."""
        if "s3" not in ((self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol):
            return None
        self.fs.invalidate_cache()
        try:
            return str(self.fs.info(self.path(name))["ETag"])
        except FileNotFoundError:
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone in comparing and replacing. Raises LeaseError where another process does not come to its end."""
        if not self.local:
            with _LOCK:
                yield
            return
        path = self.path(LOCK_FILE)
        os.makedirs(posixpath.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path)
            yield
        finally:
            # Which unlocks it.
            os.close(descriptor)

    def names(self, name: str, suffix: str = ".parquet") -> list[str]:
        """Names of the files in a sub-folder that end so, sorted; none where it does not exist."""

        def names() -> list[str]:
            self.fs.invalidate_cache()
            paths = (str(path) for path in self.fs.ls(self.path(name), detail=False))
            # That of the sub-folder itself is an empty object, by which object stores keep empty folders.
            return [posixpath.basename(path.rstrip("/")) for path in paths if path != f"{self.path(name).rstrip('/')}/"]

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
        """Rename a file, if it is there; on object stores it is copied, then removed. Another run may do so, too."""

        def move() -> None:
            self.fs.makedirs(posixpath.dirname(self.path(to)), exist_ok=True)
            with suppress(FileNotFoundError):
                self.fs.mv(self.path(name), self.path(to))

        if self.exists(name):
            self._writing(to, move)

    def remove(self, name: str) -> None:
        """Remove a file or a sub-folder, if it is there; another run may do so at the same time."""
        if self.exists(name):
            with suppress(FileNotFoundError):
                self._writing(name, lambda: self.fs.rm(self.path(name), recursive=True))

    def remove_files(self, names: Iterable[str]) -> None:
        """Remove files that are there, many in one request where the store can; another run may do so, too."""
        paths = [self.path(name) for name in names]
        if not paths:
            return

        def remove() -> None:
            if not self.local:
                with suppress(FileNotFoundError):
                    self.fs.rm(paths)
                    return
            # One that is not there ends a request for many.
            for path in paths:
                with suppress(FileNotFoundError):
                    self.fs.rm_file(path)

        self._writing(posixpath.dirname(paths[0]), remove)

    def remove_empty(self, name: str) -> None:
        """Remove a local sub-folder, if there is nothing in it; object stores have no folders."""
        if self.local:
            with suppress(OSError):
                os.rmdir(self.path(name))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file as a whole, laid out as `write_options` says."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **write_options(table.schema))
        self.write(name, sink.getvalue().to_pybytes())

    def read_table(self, name: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """Read a Parquet file that `write_table` wrote, or some of its columns. Raises FileNotFoundError."""
        wanted = schema if columns is None else pa.schema([schema.field(column) for column in columns])
        return conform(self.read_parquet(name, columns), wanted)

    def read_parquet(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Such a file as it is, with its schema's metadata. Raises FileNotFoundError."""

        def read() -> pa.Table:
            with self.fs.open(self.path(name), "rb") as file:
                # Columns that the file lacks are left out.
                return pq.ParquetFile(file, pre_buffer=True).read(columns=columns)

        return self._reading(name, read)

    def read_schema(self, name: str) -> pa.Schema:
        """The schema of such a file, with its metadata. Raises FileNotFoundError."""

        def read() -> pa.Schema:
            with self.fs.open(self.path(name), "rb") as file:
                return pq.read_schema(file)

        return self._reading(name, read)

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
        return self.retry(action, f"read {self.url}/{name}")

    def _writing(self, name: str, action: Callable[[], T]) -> T:
        return self.retry(action, f"write {self.url}/{name}")


_CHANGED = (
    "another run has written {place} since this run read it; this run publishes nothing. Run the same command again "
    "when the other run has ended"
)


def _lock(descriptor: int, path: str) -> None:
    """Lock an open file; file systems without locks are used without. Raises LeaseError when it takes too long."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LeaseError(
                    f"another run is about to publish and stands still with {path} locked; end that process (or let it "
                    "go on), and run the same command again"
                ) from None
            time.sleep(LOCK_POLL_SECONDS)
        except OSError:
            return
