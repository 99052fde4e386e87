"""Finding shards: from the patterns of a config to a list of files."""

import math
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from braceexpand import braceexpand

from finer_ray.config.messages import clipped, nearest
from finer_ray.errors import InputError
from finer_ray.images.image_formats import SUFFIXES as IMAGE_SUFFIXES
from finer_ray.shards.files import is_local, listing, locate
from finer_ray.shards.folder import FOLDER
from finer_ray.shards.formats import FORMATS
from finer_ray.shards.image_files import is_list
from finer_ray.shards.shard import ShardRef

SUFFIXES = {suffix: format.name for format in FORMATS.values() for suffix in format.suffixes}
Listings = dict[str, dict[str, dict[str, Any]]]
MAX_EXPANSIONS = 10**6
# In place of image files that a pattern names, which are one shard.
IMAGES = ShardRef("", FOLDER.name)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_shards(patterns: Sequence[str], format: str | None = None) -> list[ShardRef]:
    """The shards that patterns name, sorted by URL, each once.

    Args:
        patterns: fsspec URLs or local paths: files, folders, globs, `{0000..0015}` ranges. A folder that holds
            shards stands for them, any other for an image folder. The image files that one pattern names, or that a
            list (.txt, .csv, .jsonl) names, are one shard.
        format: of all of them; guessed from names when None.

    Raises:
        InputError: a pattern matches nothing or cannot be read, or a format cannot be guessed.

    >>> [(ref.url.rsplit("/", 1)[-1], ref.format) for ref in find_shards(["in/{a,b}.tar"])]
    [('a.tar', 'webdataset'), ('b.tar', 'webdataset')]
    """
    refs: dict[str, ShardRef] = {}
    listed: Listings = {}
    for pattern in patterns:
        for ref in _expand(pattern, format, listed):
            refs[ref.url] = ref
    return [refs[url] for url in sorted(refs)]


def _expand(pattern: str, format: str | None, listed: Listings) -> list[ShardRef]:
    if (count := _expansions(pattern)) > MAX_EXPANSIONS:
        raise InputError(f"input.shards: {clipped(pattern)!r} may name {count:.0e} shards, more than a million")
    try:
        found = [ref for text in braceexpand(pattern) for ref in _matches(text, format, listed)]
        if IMAGES in found:
            found = [ShardRef(_url(*locate(pattern)), FOLDER.name), *(ref for ref in found if ref != IMAGES)]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"input.shards: {pattern!r} cannot be read: {error}") from error
    return found


def _expansions(pattern: str) -> float:
    """How many names braces can expand to, at most."""
    ranges = re.findall(r"\{(-?[0-9]+)\.\.(-?[0-9]+)", pattern)
    count = math.prod(float(abs(int(last[:20]) - int(first[:20])) + 1) for first, last in ranges)
    lists = pattern.count("{") - len(ranges)
    return count * float(pattern.count(",") / lists + 1) ** lists if lists else count


def _matches(text: str, format: str | None, listed: Listings) -> list[ShardRef]:
    fs, path = locate(text)
    if any(mark in path for mark in "*?["):
        paths = sorted(fs.glob(path))
        if not paths:
            raise InputError(f"input.shards: nothing matches {text!r}{_siblings(fs, path)}")
        images = [match for match in paths if _is_image(str(match), format) and not (is_local(fs) and fs.isdir(match))]
        if images:
            # What else is there but folders and shards, such as a sheet of the images, is none.
            paths = [match for match in set(paths) - set(images) if _named(match) or fs.isdir(match)]
        return [
            *([IMAGES] if images else []),
            *(ref for match in sorted(paths) for ref in _shards(fs, str(match), format)),
        ]
    # A range of many shards in one folder takes one listing, not a request each.
    parent = posixpath.dirname(path.rstrip("/"))
    if parent and parent not in listed:
        with suppress(OSError):
            listed[parent] = listing(fs, parent)
    info = listed.get(parent, {}).get(path.rstrip("/"), {})
    if not info and not fs.exists(path):
        raise InputError(f"input.shards: there is no {text!r}{_siblings(fs, path)}")
    is_folder = {"file": False, "directory": True}.get(info.get("type", ""))
    if _is_image(path, format) and not (fs.isdir(path) if is_folder is None and is_local(fs) else is_folder):
        return [IMAGES]
    if format in (None, FOLDER.name) and is_list(path) and not fs.isdir(path):
        return [ShardRef(_url(fs, path), FOLDER.name)]
    return _shards(fs, path, format, is_folder)


def _is_image(path: str, format: str | None) -> bool:
    """Whether a path is that of an image file, by its name and what the user says of it."""
    return format in (None, FOLDER.name) and path.lower().endswith(IMAGE_SUFFIXES)


def _shards(fs: Any, path: str, format: str | None, is_folder: bool | None = None) -> list[ShardRef]:
    url = _url(fs, path)
    if path.lower().endswith(COMPRESSED):
        raise InputError(f"input.shards: {url!r} is compressed, so units cannot be found in it: unpack it first")
    named = _named(path)
    if (fs.isdir(path) if is_folder is None else is_folder) and not (named and FORMATS[named].folder):
        return _folder(fs, path, format)
    guess = format or named
    if guess is None:
        raise InputError(
            f"input.shards: the format of {url!r} cannot be guessed from its name; set input.format "
            f"to one of {', '.join(FORMATS)}"
        )
    return [ShardRef(url, guess)]


def _folder(fs: Any, path: str, format: str | None) -> list[ShardRef]:
    if format is not None and FORMATS[format].folder:
        return [ShardRef(_url(fs, path), format)]
    inside = sorted(str(name) for name in fs.ls(path, detail=False))
    refs = []
    for name in inside:
        guess = _named(name)
        if guess is not None and format in (None, guess):
            refs.append(ShardRef(_url(fs, name), guess))
    if refs:
        return refs
    if format is not None:
        raise InputError(f"input.shards: the folder {_url(fs, path)!r} holds no {format} shards")
    _refuse_shards_below(fs, path)
    return [ShardRef(_url(fs, path), FOLDER.name)]


def _named(path: str) -> str | None:
    """The format that a name's suffix tells, or None."""
    return SUFFIXES.get(posixpath.splitext(path.rstrip("/"))[1].lower())


def _refuse_shards_below(fs: Any, path: str) -> None:
    """Raise InputError where a folder is no image folder, but holds shards in folders below it.

    The walk ends at the first image, so that an image folder costs a listing or two.
    """
    below = Counter[str]()
    for place, _, names in fs.walk(path):
        shown = "/." not in place[len(path) :]
        if any(shown and name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".") for name in names):
            return
        below.update(suffix for name in names if (suffix := posixpath.splitext(name)[1].lower()) in SUFFIXES)
    if below:
        suffix, count = below.most_common(1)[0]
        url = _url(fs, path)
        raise InputError(
            f"input.shards: the folder {url!r} holds no shards itself, but {count} {suffix} files below it: give "
            f"'{url}/**/*{suffix}'"
        )


def _url(fs: Any, path: str) -> str:
    """An absolute path where local, else a URL with its protocol, so that any worker can open it."""
    return str(Path(path).absolute()) if is_local(fs) else str(fs.unstrip_protocol(path))


def _siblings(fs: Any, path: str) -> str:
    """The names beside a missing one, as a hint."""
    parent, name = posixpath.split(path)
    try:
        names = [posixpath.basename(str(entry).rstrip("/")) for entry in fs.ls(parent, detail=False)]
    except (OSError, fsspec.exceptions.FSTimeoutError):
        return f"; the folder {parent!r} cannot be listed"
    return nearest(name, names)
