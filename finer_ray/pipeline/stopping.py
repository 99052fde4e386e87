"""Stopping: Ctrl-C and SIGTERM end a run in order, and it says what is kept."""

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from finer_ray.errors import FinerRayError, Stopped
from finer_ray.store.status import status_of

# Ray replaces the handler of SIGTERM by one that exits with the signal's number.
TERMINATED = (signal.SIGTERM, 128 + signal.SIGTERM)


@contextmanager
def stoppable(url: str | None = None) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM end what happens inside, lease and cluster given back; a second signal ends the process.

    Args:
        url: of the export that is being made, whose kept images are counted for the message; None for other work.

    Raises:
        Stopped: a signal came; its exit code is 130 for Ctrl-C, 143 for SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        # Signals come to the main thread alone.
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Ignored signals stay so, as under nohup.
    if before[signal.SIGINT] is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
        return
    except KeyboardInterrupt:
        number = signal.SIGINT
    except SystemExit as end:
        if end.code not in TERMINATED:
            raise
        number = signal.SIGTERM
    finally:
        for number_, handler in before.items():
            signal.signal(number_, handler)
    # Else the interpreter looks through all that was loaded for garbage before it ends, which takes a second.
    gc.freeze()
    raise Stopped(f"stopped; {_kept(url)}the same command goes on", 128 + number)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(128 + number)


def _kept(url: str | None) -> str:
    if url is None:
        return ""
    try:
        status = status_of(url)
    except FinerRayError:
        return ""
    return f"{status.images} of {status.total} images kept; " if status.total is not None else ""
