"""Image files that one URL names: those of a folder, of a pattern (photos/*.jpg), or of a list, a line each."""

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braceexpand import braceexpand
from fsspec.utils import glob_translate

from finer_ray.config.messages import brief, printable
from finer_ray.images.image_formats import SUFFIXES
from finer_ray.shards.files import is_local, listing, locate
from finer_ray.shards.sheets import SHEETS, Sheet, load_sheet

LINK = "a link out of the folder (or to a folder, or to nothing): give the real folder, or copy"
GONE = "there is no such file"
OUT = "the name leads out of the folder of its list"
# Of files that list images by their paths from the list's own folder.
LISTS = (".txt", ".csv", ".jsonl")
MARK = re.compile(r"[*?\[{]")
# From which on a folder is listed rather than asked for each.
MANY = 16


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


@dataclass(frozen=True)
class Place:
    """What the URL of a shard of image files stands for.

    Attributes:
        fs: the file system.
        root: of the files, to which their keys are relative.
        names: of the files, where they are given one by one; None where the root is to be looked through.
        pattern: that paths below the root match; None where it is a folder as a whole.
        depth: of folders in which the pattern can match; None: any.
        sheet: that gives the names; None where the URL does.
    """

    fs: Any
    root: str
    names: tuple[str, ...] | None = None
    pattern: re.Pattern[str] | None = None
    depth: int | None = None
    sheet: Sheet | None = None

    def matches(self, name: str) -> bool:
        """Whether a file that was found is meant, by its path below the root."""
        return self.pattern is None or self.pattern.match(name) is not None


def place_of(url: str) -> Place:
    """The place that a URL stands for. Raises FileNotFoundError where it names one file or folder that is not there."""
    fs, path = locate(url)
    path = path.rstrip("/")
    # To ask a web server whether a photo is a folder takes fetching it.
    if (is_local(fs) or not path.lower().endswith(SUFFIXES)) and fs.isdir(path):
        return Place(fs, path)
    parts = path.split("/")
    first = next((number for number, part in enumerate(parts) if MARK.search(part)), len(parts) - 1)
    root = "/".join(parts[:first])
    if is_list(path):
        sheet = load_sheet(fs, path, parts[-1])
        return Place(fs, root, tuple(sheet.lines), sheet=sheet)
    if not MARK.search(path) and not fs.exists(path):
        raise FileNotFoundError(f"no folder or file {url}")
    names = ["/".join(text.split("/")[first:]) for text in braceexpand(path)]
    if not any(map(MARK.search, names)):
        return Place(fs, root, tuple(dict.fromkeys(names)))
    pattern = re.compile("|".join(f"(?:{glob_translate(name)})" for name in names))
    depth = None if any("**" in name for name in names) else max(name.count("/") + 1 for name in names)
    return Place(fs, root, None, pattern, depth)


def is_list(path: str) -> bool:
    """Whether a path is that of a list, by its name."""
    return path.lower().endswith(LISTS) and not MARK.search(path)


def signs(url: str) -> dict[str, dict[str, Any]] | None:
    """What the store says of each file that the shard is made of, by its path below the root; None where it is gone.

    Sheets and the list itself are such files, too. Hidden files are not.
    """
    try:
        place = place_of(url)
    except FileNotFoundError:
        return None
    if place.names is not None:
        own = () if place.sheet is None else (place.sheet.name,)
        return infos(place.fs, place.root, (*own, *filter(is_inside, place.names))) or None
    below = {
        path[len(place.root) :].lstrip("/"): info
        for path, info in place.fs.find(place.root, place.depth, detail=True).items()
    }
    shown = {name: info for name, info in below.items() if not any(part.startswith(".") for part in name.split("/"))}
    if place.pattern is None:
        return shown
    meant = {name: info for name, info in shown.items() if place.matches(name) or posixpath.basename(name) in SHEETS}
    return meant if any(map(place.matches, meant)) else None


def infos(fs: Any, root: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What the store says of those of some files that are there, by their paths below the root."""
    found: dict[str, dict[str, Any]] = {}
    folders = defaultdict(list)
    for name in names:
        folders[posixpath.dirname(name)].append(name)
    for folder, inside in folders.items():
        listed = listing(fs, f"{root}/{folder}".rstrip("/")) if len(inside) >= MANY else {}
        for name in inside:
            path = f"{root}/{name}"
            try:
                info = listed.get(path) or fs.info(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if info.get("type") != "directory":
                found[name] = info
    return found


def is_inside(name: str) -> bool:
    """Whether a normalised path stays in the folder that it starts from."""
    return not name.startswith(("/", "../")) and name != ".." and "://" not in name


def image_files(place: Place, suffixes: tuple[str, ...]) -> tuple[list[File], list[File]]:
    """The images of a place, and the sheets beside them, each sorted by key.

    Args:
        place: of the shard.
        suffixes: in lower case, by which images are told in folders and patterns. What a list names is one.

    Raises:
        OSError: the root cannot be listed.
    """
    fs, root = place.fs, os.path.realpath(place.root) if is_local(place.fs) else place.root
    if place.names is not None:
        return sorted(_named(place, root), key=_key), []
    if not fs.isdir(root):
        raise FileNotFoundError(f"no folder {root}")
    found = (_local if is_local(fs) else _remote)(fs, root, suffixes, place.depth)
    images: list[File] = []
    sheets: list[File] = []
    for file in sorted(found, key=_key):
        if posixpath.basename(file.key) in SHEETS:
            sheets.append(file)
        elif place.matches(file.path[len(root) :].lstrip("/")) or (file.fault is not None and file.fault != LINK):
            # A folder that cannot be listed may hold what a pattern means.
            images.append(file)
    return images, sheets


def _is_meant(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file is an image or a sheet by its name."""
    return name.lower().endswith(suffixes) or name in SHEETS


def _key(file: File) -> str:
    return file.key


def _named(place: Place, root: str) -> Iterator[File]:
    """Files by their names. What a list names must be a file of its folder; what the user names may be a link."""
    names = place.names or ()
    there = infos(place.fs, root, filter(is_inside, names))
    for name in names:
        path, fault = f"{root}/{name}", None
        if not is_inside(name):
            fault = OUT
        elif name not in there:
            fault = GONE
        elif place.sheet is not None and is_local(place.fs) and not _inside(root, path):
            fault = LINK
        yield File(path, _utf8(name), 0 if fault else int(there[name].get("size") or 0), fault)


def _remote(fs: Any, root: str, suffixes: tuple[str, ...], depth: int | None) -> Iterator[File]:
    for path, info in fs.find(root, depth, detail=True).items():
        relative = path[len(root) :].lstrip("/")
        hidden = any(part.startswith(".") for part in relative.split("/"))
        if hidden or not _is_meant(posixpath.basename(relative), suffixes):
            continue
        if info.get("islink") or info.get("type") == "link":
            yield File(path, _utf8(relative), 0, LINK)
        elif info.get("type", "file") == "file":
            yield File(path, _utf8(relative), int(info.get("size") or 0))


def _local(fs: Any, root: str, suffixes: tuple[str, ...], depth: int | None) -> Iterator[File]:
    """The images below a local root. Links are followed to files of the root only; all others that may stand for
    images, and folders that cannot be listed, are files with a fault, so that nothing is missed without a word.

    Raises:
        OSError: the root cannot be listed.
    """
    unlisted: list[OSError] = []
    for place, folders, names in os.walk(root, onerror=unlisted.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *names):
            path, is_image = os.path.join(place, name), _is_meant(name, suffixes)
            if name.startswith("."):
                continue
            if os.path.islink(path):
                fault = None if _inside(root, path) else LINK
                wanted = is_image or os.path.isdir(path)
            else:
                fault, wanted = None, is_image and os.path.isfile(path)
            if wanted:
                yield _file(root, path, fault)
        if depth is not None and place[len(root) :].count("/") + 1 >= depth:
            folders.clear()
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


def _inside(root: str, link: str) -> bool:
    """Whether a link leads to a file of this folder."""
    target = os.path.realpath(link)
    return os.path.isfile(target) and Path(target).is_relative_to(root)


def _utf8(name: str) -> str:
    """A file name as text that can be written; bytes that are not UTF-8 become backslash escapes."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
