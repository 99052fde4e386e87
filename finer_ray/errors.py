"""Errors that a user can act on: each message says what was wrong, where (file, key, config path), and what to do.

Each kind has an exit code of its own, by which a scheduler can tell what is worth trying again.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from finer_ray.urls import redacted

# Modules of the extra `job`: what reads exports does without.
OF_A_JOB = ("huggingface_hub", "open_clip", "ray", "safetensors", "timm", "torch", "torchvision", "webdataset")


class FinerRayError(Exception):
    """Base of every error that the command line prints as one plain message.

    Args:
        message: what was wrong, where, and what to do; secrets of URLs in it are hidden.

    Attributes:
        exit_code: of a process that ends with it.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        message = redacted(message)
        super().__init__(message)
        # Ray Data adds advice about its own settings to the arguments of errors that pass through it.
        self._message = message

    def __str__(self) -> str:
        return self._message


class ConfigError(FinerRayError):
    """The job's config asks for something that cannot be done; raised before any work starts."""


class InputError(FinerRayError):
    """The input as a whole is unusable: no shards, or too many images that fail."""

    exit_code = 3


class ExportError(FinerRayError):
    """An export on disk is missing, unfinished, or was made with another config."""

    exit_code = 4


class LeaseError(FinerRayError):
    """Another run writes to the same output. Trying again later is right."""

    exit_code = 5


class StoreError(FinerRayError):
    """The place of shards or output fails: no space, no permission, no answer. What is committed is kept."""

    exit_code = 6


class WorkerError(FinerRayError):
    """Processes of the cluster die, and to repeat their work does not help. What is committed is kept."""

    exit_code = 7


class QueryError(FinerRayError):
    """A query that cannot be answered: its SQL is wrong, or it asks for what an export does not hold."""


class Stopped(FinerRayError):
    """The process was asked to end, by Ctrl-C or by SIGTERM.

    Args:
        message: what is kept, and what to do.
        exit_code: 128 and the signal's number.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the process with one plain message and the error's exit code where a known error comes out.

    An error of the operating system is one too: it says which place could not be read or written, and why. So is a
    package of jobs that is not installed.
    """
    try:
        yield
    except FinerRayError as error:
        _end(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        if error.name not in OF_A_JOB:
            raise
        what = f"{error.name} is not installed, which jobs need and reading an export does not"
        _end(ConfigError(f'{what}: pip install "finer_ray[job]"'))
    except OSError as error:
        # Without a number it is a library's, and says nothing of a place.
        if error.errno is None or isinstance(error, BrokenPipeError):
            raise
        _end(StoreError(f"{_plain(error)}: choose another place, or give the permission or the room"))


def _plain(error: OSError) -> str:
    """What the system says, in one line."""
    if error.filename is not None:
        return f"cannot read or write {str(error.filename)!r}: {error.strerror}"
    return f"cannot read or write: {' '.join(str(error).split())}"


def _end(error: FinerRayError) -> NoReturn:
    print(error if isinstance(error, Stopped) else f"error: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)
    raise SystemExit(error.exit_code) from None
