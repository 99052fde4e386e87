"""Files: opening shards wherever fsspec reaches."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import fsspec

SCAN_BLOCK = 2**20
READ_BLOCK = 4 * 2**20
DRAFT = ".tmp"
# Of web servers that give the files of a folder, and not the folder.
NO_LISTING = (401, 403, 405)


def locate(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL or local path, and the path in it."""
    fs, path = fsspec.core.url_to_fs(url)
    return fs, path


def is_local(fs: Any) -> bool:
    """Whether paths of this file system are paths of the operating system."""
    return isinstance(fs, fsspec.implementations.local.LocalFileSystem)


def open_scan(url: str) -> BinaryIO:
    """Open for hopping from header to header.

    A remote read fetches 1 MiB ahead: bodies larger than that are never fetched, smaller ones come along with
    their neighbours' headers, which beats one request each.
    """
    return _open(url, SCAN_BLOCK, "readahead")


def open_read(url: str) -> BinaryIO:
    """Open for reading from an offset onwards, 4 MiB ahead where remote."""
    return _open(url, READ_BLOCK, "readahead")


def open_random(url: str) -> BinaryIO:
    """Open with no read-ahead, for readers that buffer by themselves."""
    return _open(url, READ_BLOCK, "none")


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file; its position is moved."""
    return file.seek(0, 2) or file.tell()


def listing(fs: Any, parent: str) -> dict[str, dict[str, Any]]:
    """What a folder holds, by path; nothing where there is no such folder, or where a web server gives files alone."""
    try:
        infos = fs.ls(parent, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except Exception as error:
        if getattr(error, "status", None) in NO_LISTING:
            return {}
        raise
    return {str(info["name"]).rstrip("/"): info for info in infos}


def _open(url: str, block: int, cache: str) -> BinaryIO:
    fs, path = locate(url)
    file: BinaryIO = fs.open(path, "rb", block_size=block, cache_type=cache)
    return file


@contextmanager
def whole_file(url: str) -> Iterator[BinaryIO]:
    """A new file, for writing and reading, that appears under its name only when it is whole.

    Written beside its place and renamed where local, else to a local file that is then put there as a whole; nothing
    is left where that fails.
    """
    fs, path = locate(url)
    if not is_local(fs):
        with tempfile.NamedTemporaryFile(suffix=DRAFT) as file:
            yield cast(BinaryIO, file)
            file.flush()
            fs.put_file(file.name, path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.{secrets.token_hex(4)}{DRAFT}"
    try:
        with open(draft, "w+b") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise
