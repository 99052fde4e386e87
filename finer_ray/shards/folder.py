"""Image folders: root/class/**/image.ext, one shard per root."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from finer_ray.config.messages import brief, printable
from finer_ray.images.image_formats import EXTENSIONS
from finer_ray.images.sample import Sample
from finer_ray.retry import of_store
from finer_ray.shards.fields import Fields, alternatives
from finer_ray.shards.files import is_local, locate
from finer_ray.shards.format import Format
from finer_ray.shards.shard import ShardIndex, ShardRef

LINK = "a link out of the folder (or to a folder, or to nothing): give the real folder, or copy"


@dataclass(frozen=True, slots=True)
class File:
    """An image file: its path for fsspec, its path below the root (the key), its bytes, and why it is not read."""

    path: str
    key: str
    size: int
    fault: str | None = None

    @property
    def label(self) -> str | None:
        """Name of the folder below the root; None for files in the root itself."""
        return self.key.split("/")[0] if "/" in self.key else None


def index(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count a folder's images by one listing; the fingerprint covers relative paths and sizes."""
    if fields.label not in ("", "folder"):
        wrong = f"label {fields.label!r}: an image folder has the field 'folder' or '' only"
        return ShardIndex(ref, 0, "", (), wrong)
    if fields.text or fields.contrast_text or fields.references:
        return ShardIndex(ref, 0, "", (), "text, contrast_text, references: an image folder has no such fields")
    _, files = _listing(ref, fields)
    digest = sha256()
    for file in files:
        digest.update(f"{file.size if file.fault is None else file.fault} {file.key}\0".encode())
    problem = None if files else f"no image in the folder: looked for {', '.join(_extensions(fields))}"
    starts = tuple(range(0, len(files), rows_per_unit))
    return ShardIndex(ref, len(files), digest.hexdigest(), starts, problem)


def keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Relative paths of the images that `index` counts, in order."""
    yield from (file.key for file in _listing(ref, fields)[1])


def read(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Up to `count` images from an index of the listing on.

    The folder is listed again for each call, so a folder of very many files is better packed into shards.
    """
    fs, files = _listing(ref, fields)
    for file in islice(files, start, start + count):
        yield _sample(fs, file, fields, max_member_bytes)


def class_names(shards: Sequence[ShardRef], fields: Fields) -> list[str]:
    """Names of the folders below the roots, sorted."""
    return sorted({file.label for ref in shards for file in _listing(ref, fields)[1] if file.label is not None})


def _sample(fs: Any, file: File, fields: Fields, limit: int) -> Sample:
    if file.fault is not None:
        return Sample(file.key, error=file.fault)
    if file.size > limit:
        return Sample(file.key, error=f"{file.size} bytes are more than the allowed {limit}")
    try:
        with fs.open(file.path, "rb") as opened:
            image = opened.read(limit + 1)
    except Exception as error:
        if of_store(error):
            raise
        return Sample(file.key, error=f"the file cannot be read: {brief(error)}")
    if len(image) > limit:
        return Sample(file.key, error=f"more than the allowed {limit} bytes")
    return Sample(file.key, image, label=file.label if fields.label == "folder" else None)


def _listing(ref: ShardRef, fields: Fields) -> tuple[Any, list[File]]:
    """The file system and the images below the root, sorted by key. Raises OSError where it cannot be listed."""
    fs, root = locate(ref.url)
    if is_local(fs):
        root = os.path.realpath(root)
    root = root.rstrip("/")
    if not fs.isdir(root):
        raise FileNotFoundError(f"no folder {ref.url}")
    suffixes = tuple(f".{ext}" for ext in _extensions(fields))
    found = _local(root, suffixes) if is_local(fs) else _remote(fs, root, suffixes)
    return fs, sorted(found, key=lambda file: file.key)


def _remote(fs: Any, root: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    for path, info in fs.find(root, detail=True).items():
        relative = path[len(root) :].lstrip("/")
        hidden = any(part.startswith(".") for part in relative.split("/"))
        if hidden or not relative.lower().endswith(suffixes):
            continue
        if info.get("islink") or info.get("type") == "link":
            yield File(path, _utf8(relative), 0, LINK)
        elif info.get("type", "file") == "file":
            yield File(path, _utf8(relative), int(info.get("size") or 0))


def _local(root: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    """The images below a local root. Links are followed to files of the root only; all others that may stand for
    images, and folders that cannot be listed, are files with a fault, so that nothing is missed without a word.

    Raises:
        OSError: the root cannot be listed.
    """
    unlisted: list[OSError] = []
    for place, folders, names in os.walk(root, onerror=unlisted.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            path, is_image = os.path.join(place, name), name.lower().endswith(suffixes)
            if name.startswith("."):
                continue
            if os.path.islink(path):
                fault = None if _inside(root, path) else LINK
                wanted = is_image or os.path.isdir(path)
            else:
                fault, wanted = None, is_image and os.path.isfile(path)
            if wanted:
                yield _file(root, path, fault)
    for error in unlisted:
        if error.filename == root:
            raise error
        yield _file(root, error.filename, f"the folder cannot be listed: {brief(error)}")


def _file(root: str, path: str, fault: str | None) -> File:
    try:
        size = os.path.getsize(path) if fault is None else 0
    except OSError:
        size = 0
    return File(path, _utf8(os.path.relpath(path, root)), size, fault)


def _extensions(fields: Fields) -> tuple[str, ...]:
    return tuple(ext.lower().lstrip(".") for ext in alternatives(fields.image)) or EXTENSIONS


def _inside(root: str, link: str) -> bool:
    """Whether a link leads to a file of this folder."""
    target = os.path.realpath(link)
    return os.path.isfile(target) and Path(target).is_relative_to(root)


def _utf8(name: str) -> str:
    """A file name as text that can be written; bytes that are not UTF-8 become backslash escapes."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))


FOLDER = Format(
    name="folder",
    description="a folder, read as a whole: `CLASS/**/NAME.EXTENSION`",
    suffixes=(),
    fields=Fields(label="folder"),
    index=index,
    keys=keys,
    read=read,
    class_names=class_names,
    folder=True,
)
