"""The tree of a data set: the files below its folder, and nothing outside of it."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from finer_ray.config.messages import nearest
from finer_ray.datasets.listing import Findings
from finer_ray.errors import InputError
from finer_ray.images.image_formats import SUFFIXES


class Tree:
    """A local folder. Names are paths below it with `/`; links that lead out of it are not followed.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, source: str | Path) -> None:
        self.root = Path(os.path.realpath(Path(source).expanduser()))
        if not self.root.is_dir():
            beside = os.listdir(self.root.parent) if self.root.parent.is_dir() else []
            raise InputError(f"--source: there is no folder {str(source)!r}{nearest(self.root.name, beside)}")

    def has(self, name: str) -> bool:
        """Whether a file or folder of that name lies in the tree."""
        return self._inside(name) is not None

    def text(self, name: str) -> str:
        """An annotation file as text; bytes that are not UTF-8 become surrogates, as in file names.

        Raises:
            InputError: it is not there, or leads out of the tree.
        """
        return self.path(name).read_text(encoding="utf-8-sig", errors="surrogateescape")

    def path(self, name: str) -> Path:
        """The path of an annotation file. Raises InputError as `text` does."""
        found = self._inside(name)
        if found is None or not found.is_file():
            raise InputError(f"--source: {str(self.root)!r} holds no file {name}, or it is a link out of that folder")
        return found

    def files(self, folder: str, findings: Findings, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, int]:
        """Paths and sizes in bytes of the files below a folder ('' for all), sorted; hidden ones left out."""
        found: dict[str, int] = {}
        for place, inner, names in os.walk(self.root / folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for name in [*inner, *names]:
                path = Path(place, name)
                listed = path.relative_to(self.root).as_posix()
                if path.is_symlink() and not self._is_plain(path):
                    findings.add("refused", listed, "a link to a folder, or out of the data set's folder")
                elif name in names and name.lower().endswith(suffixes) and not name.startswith("."):
                    found[listed] = path.stat().st_size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        """The bytes of a file that `files` found. Raises OSError."""
        path = self._inside(name)
        if path is None:
            raise FileNotFoundError(f"{name} is gone, or has become a link out of the data set's folder")
        return path.read_bytes()

    def _inside(self, name: str) -> Path | None:
        if not is_plain_path(name):
            return None
        real = Path(os.path.realpath(self.root / name))
        return real if real.is_relative_to(self.root) and real.exists() else None

    def _is_plain(self, link: Path) -> bool:
        target = Path(os.path.realpath(link))
        return target.is_file() and target.is_relative_to(self.root)


def is_plain_path(name: str) -> bool:
    """Whether a path from an annotation file stays below the folder that it is relative to."""
    return "\0" not in name and not name.startswith(("/", "\\", "~")) and ".." not in PurePosixPath(name).parts


def present(path: str, files: Mapping[str, int], where: str, findings: Findings) -> bool:
    """Whether an image that an annotation file names is among the files found; a finding tells where it is not.

    The path is looked up among them and never opened as it stands.
    """
    if path in files:
        return True
    if is_plain_path(path):
        findings.add("missing", path, f"named in {where}")
    else:
        findings.add("refused", path, f"named in {where}; it leads out of the data set's folder")
    return False


def report_surplus(files: Mapping[str, int], named: set[str], findings: Findings) -> None:
    """A finding for each file that no annotation file names."""
    for path in files:
        if path not in named:
            findings.add("surplus", path, "no annotation file names it")
