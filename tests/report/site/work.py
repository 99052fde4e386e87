"""Work for other processes, in a module of its own: they import little."""

import os
import signal

from finer_ray.errors import ExportError


def fails(item: int) -> int:
    if item == 3:
        raise ExportError("three")
    return item


def dies(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item
