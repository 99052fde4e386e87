"""Files: opening shards wherever fsspec reaches."""

import os
import posixpath
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, BinaryIO, cast

import fsspec

from finer_ray.shards.shard import ShardRef

SCAN_BLOCK = 2**20
READ_BLOCK = 4 * 2**20
DRAFT = ".tmp"


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


# The first of these that a store gives tells contents apart; where it gives none, times must do.
TAGS = ("ETag", "etag", "md5Hash", "checksum", "content_settings.content_md5")
# Local file systems call the change time `created`; a copy or chmod moves it, which only costs a recount.
TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
FOLDER_TAGS = "tags"


def stamps(refs: Sequence[ShardRef]) -> dict[str, str | None]:
    """For each shard that is there, by URL, a cheap sign of change: its size, with an entity tag or times.

    No contents are read: folders are listed, each once; an image folder has the signs of all its files. The sign is
    None where it cannot be told (a server that gives neither tags nor times): such a shard must be indexed again. A
    shard that is not there has no entry.

    Raises:
        OSError: a store cannot be asked.
    """
    found: dict[str, str | None] = {}
    listed: dict[str, dict[str, Any]] = {}
    for ref in refs:
        fs, path = locate(ref.url)
        if ref.format == "folder":
            if fs.exists(path):
                found[ref.url] = _folder_mark(fs, path.rstrip("/"))
            continue
        parent = posixpath.dirname(path)
        place = f"{type(fs).__name__}:{parent}"
        if place not in listed:
            listed[place] = listing(fs, parent)
        info = listed[place].get(path)
        if info is not None:
            found[ref.url] = _mark(info)
    return found


def is_tag(stamp: str | None) -> bool:
    """Whether a sign of `stamps` tells contents apart for certain, as entity tags do, and times do not."""
    return stamp is not None and any(f" {name}=" in stamp for name in (*TAGS, FOLDER_TAGS))


def _folder_mark(fs: Any, root: str) -> str | None:
    """Of all files below a folder that are not hidden."""
    digest, tags, count = sha256(), True, 0
    for path, info in sorted(fs.find(root, detail=True).items()):
        name = path[len(root) :].lstrip("/")
        if any(part.startswith(".") for part in name.split("/")):
            continue
        mark = _mark(info)
        if mark is None:
            return None
        digest.update(f"{name} {mark}\0".encode("utf-8", "surrogateescape"))
        tags, count = tags and is_tag(mark), count + 1
    return f"files={count} {FOLDER_TAGS if tags else 'times'}={digest.hexdigest()[:32]}"


def listing(fs: Any, parent: str) -> dict[str, dict[str, Any]]:
    """What a folder holds, by path; nothing where there is no such folder."""
    try:
        infos = fs.ls(parent, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {str(info["name"]).rstrip("/"): info for info in infos}


def _mark(info: dict[str, Any]) -> str | None:
    tag = next((f"{name}={info[name]}" for name in TAGS if info.get(name) is not None), None)
    marks = [tag] if tag else [f"{name}={info[name]}" for name in TIMES if info.get(name) is not None]
    return " ".join([f"size={info.get('size')}", *marks]) if marks else None


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
