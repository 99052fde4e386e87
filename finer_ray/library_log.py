"""Our lines apart from what libraries print: theirs go to a log file, ours to the error output."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from finer_ray.errors import ConfigError, Stopped

STDERR = 2
_ours: TextIO | None = None


def error_output() -> TextIO:
    """Where our own lines go: the error output, also while that of libraries is kept apart."""
    return _ours or sys.stderr


@contextmanager
def libraries_apart(url: str) -> Iterator[None]:
    """Have what libraries print on the error output, Ray's C++ code too, go to a log file for a while.

    Nothing is kept apart where the error output is not the process's own, as in a notebook, or no log can be written.
    A failure after they said something tells which file that is, unless it is the config's, which says all itself.

    Args:
        url: of the output that is being made, see `log_file`.
    """
    global _ours
    log = _opened(log_file(url)) if _ours is None and _is_the_process_own() else None
    if log is None:
        yield
        return
    path, file = log
    sys.stderr.flush()
    before, kept = file.tell(), os.dup(STDERR)
    os.dup2(file.fileno(), STDERR)
    _ours = open(  # noqa: SIM115
        kept, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
    )
    try:
        yield
    except Exception as error:
        sys.stderr.flush()
        if path.stat().st_size > before and not isinstance(error, Stopped | ConfigError):
            error.add_note(f"what Ray and other libraries said is in {path}")
        raise
    finally:
        sys.stderr.flush()
        os.dup2(kept, STDERR)
        _ours.close()
        _ours = None
        file.close()
        with suppress(OSError):
            if not path.stat().st_size:
                path.unlink()


def log_file(url: str) -> Path:
    """The log of an output: beside a local folder, else in the user's folder of state.

    >>> log_file("exports/birds/")
    PosixPath('exports/birds.log')
    """
    if "://" not in url:
        return Path(url.rstrip("/") + ".log")
    return _state() / (re.sub(r"[^\w.-]+", "_", url.partition("://")[2]).strip("_") + ".log")


def _state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()) / "finer_ray"


def _opened(path: Path) -> tuple[Path, TextIO] | None:
    """A log, opened to be added to; in the folder of state where its own place cannot be written."""
    for place in (path, _state() / path.name):
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            return place, open(place, "a", opener=_private)
    return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_APPEND, 0o600)


def _is_the_process_own() -> bool:
    try:
        return sys.stderr.fileno() == STDERR
    except (AttributeError, OSError, ValueError):
        return False
