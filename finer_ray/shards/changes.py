"""Signs of change: what a store says of a shard without its contents."""

import posixpath
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from finer_ray.shards.files import listing, locate
from finer_ray.shards.formats import FORMATS
from finer_ray.shards.image_files import signs
from finer_ray.shards.shard import ShardRef

# The first of these that a store gives tells contents apart; where it gives none, times must do.
# The last two are the Hugging Face Hub's: of a file in a repository, and in a bucket.
TAGS = ("ETag", "etag", "md5Hash", "checksum", "content_settings.content_md5", "blob_id", "xet_hash")
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
        if FORMATS[ref.format].folder:
            if (files := signs(ref.url)) is not None:
                found[ref.url] = _files_mark(files)
            continue
        parent = posixpath.dirname(path)
        place = f"{type(fs).__name__}:{parent}"
        if place not in listed:
            listed[place] = listing(fs, parent)
        info = listed[place].get(path) or _info(fs, path)
        if info is not None:
            found[ref.url] = _mark(info)
    return found


def _info(fs: Any, path: str) -> dict[str, Any] | None:
    """Of a file that no listing has under this name, as the Hub's have none under `models/`."""
    try:
        info: dict[str, Any] = fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return info


def is_tag(stamp: str | None) -> bool:
    """Whether a sign of `stamps` tells contents apart for certain, as entity tags do, and times do not."""
    return stamp is not None and any(f" {name}=" in stamp for name in (*TAGS, FOLDER_TAGS))


def _files_mark(files: Mapping[str, dict[str, Any]]) -> str | None:
    """Of all files of a shard, by their names."""
    digest, tags = sha256(), True
    for name, info in sorted(files.items()):
        mark = _mark(info)
        if mark is None:
            return None
        digest.update(f"{name} {mark}\0".encode("utf-8", "surrogateescape"))
        tags = tags and is_tag(mark)
    return f"files={len(files)} {FOLDER_TAGS if tags else 'times'}={digest.hexdigest()[:32]}"


def _mark(info: dict[str, Any]) -> str | None:
    tag = next((f"{name}={info[name]}" for name in TAGS if info.get(name) is not None), None)
    marks = [tag] if tag else [f"{name}={info[name]}" for name in TIMES if info.get(name) is not None]
    return " ".join([f"size={info.get('size')}", *marks]) if marks else None
