"""The report's folder: written whole or not at all, and never over what is not a report's."""

import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finer_ray.config.messages import shown
from finer_ray.errors import ExportError

SIGN = "report.json"
# Everything that a report holds, by path; what else is there is somebody's own.
OURS = re.compile(
    rf"(index|images|pairs|reading)\.html|{re.escape(SIGN)}|(assets|classes|images|pairs)/"
    r"|assets/([a-z]+\.(js|css)|reading-\d\.jpg)"
    r"|classes/\d+\.html|images/\d+(\.html|\.jpg|-map\.jpg|-region\.png)"
    r"|pairs/\d+-\d+(\.html|-\d+(-lit)?\.jpg)"
)


@contextmanager
def replaced(folder: Path, ours: re.Pattern[str] = OURS) -> Iterator[Path]:
    """A draft to write a report into, which takes the folder's place at the end; nothing changes where that fails.

    Args:
        folder: new, empty, or an earlier report with nothing of anybody's in it.
        ours: everything that such a report holds, by path.

    Yields:
        An empty folder but for `report.json`, which is the writer's to fill.

    Raises:
        ExportError: the folder is a file, or holds anything that no report of ours does.
    """
    place = folder.resolve()
    _check_place(folder, place, ours)
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place, ours)
    draft, old = (place.with_name(f".{place.name}.{secrets.token_hex(4)}.{what}") for what in ("tmp", "old"))
    draft.mkdir()
    with (draft / SIGN).open("w") as sign:
        # What tells a draft that is being written from that of a killed run.
        fcntl.flock(sign, fcntl.LOCK_EX)
        try:
            yield draft
            # Minutes have passed.
            _check_place(folder, place, ours)
            if place.exists():
                place.rename(old)
            draft.rename(place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _check_place(folder: Path, place: Path, ours: re.Pattern[str]) -> None:
    """Raises ExportError where something stands that may not be replaced."""
    if not place.exists():
        return
    if not place.is_dir():
        raise ExportError(f"{folder} is a file: name a folder with --to")
    stray, report = _stray(place, ours), (place / SIGN).is_file()
    if not report:
        stray = stray or next((path.name for path in place.iterdir()), None)
    if stray is not None:
        why = "no report has such a file" if report else "that is no report"
        raise ExportError(f"{folder} holds {shown(stray)}: {why}, and is not taken away; name another folder with --to")


def _stray(place: Path, ours: re.Pattern[str]) -> str | None:
    """A file or folder below a place whose name no report has, links included; None where there is none."""
    for where, folders, files in os.walk(place):
        inside = Path(where).relative_to(place)
        links = [name for name in folders if Path(where, name).is_symlink()]
        names = [(inside / name).as_posix() for name in [*files, *links]]
        names += [f"{(inside / name).as_posix()}/" for name in folders if name not in links]
        if (found := next((name for name in sorted(names) if not ours.fullmatch(name)), None)) is not None:
            return found
    return None


def _sweep(place: Path, ours: re.Pattern[str]) -> None:
    """Remove what killed runs have left beside the report: folders of ours that nobody is writing."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.*"):
        known = re.fullmatch(r"[0-9a-f]{8}\.(tmp|old)", left.name.removeprefix(f".{place.name}."))
        if not known or left.is_symlink() or not (left / SIGN).is_file() or _stray(left, ours) is not None:
            continue
        with (left / SIGN).open() as sign, suppress(BlockingIOError):
            fcntl.flock(sign, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
