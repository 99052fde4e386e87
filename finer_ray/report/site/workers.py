"""Workers: one piece of work on many items, in other processes, with its results in the items' order."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from finer_ray.errors import ExportError

Item = TypeVar("Item")
Result = TypeVar("Result")
# A forked process would have the threads' locks of this one, but not the threads.
CONTEXT = multiprocessing.get_context("spawn")
# Items of each process that are under way or done before their turn.
AHEAD = 2
# Each takes about 150 MB.
MOST = 8


def processes() -> int:
    """One for each core that this process may use, which in containers are not all of the machine's; MOST at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)


def in_order(work: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Generator[Result, None, None]:
    """Call `work` with each item; a few items and results are in memory at a time.

    Args:
        work: pickled once for each process; what it raises is raised here.
        items: pickled.
        jobs: processes; with 1 everything is done in this one.

    Yields:
        Results, in the order of the items. Closing the generator ends the processes at once.

    Raises:
        ExportError: a process ended before its work was done, as one that is killed does.
    """
    if jobs <= 1:
        yield from map(work, items)
        return
    waiting, left = deque[Future[Result]](), iter(items)
    with _processes(work, jobs) as pool:
        for _ in range(AHEAD * jobs):
            waiting.extend(pool.submit(_call, item) for item in islice(left, 1))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_call, item) for item in islice(left, 1))


@contextmanager
def _processes(work: Callable[[Any], Any], jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that live as long as this context, and no longer than this process, however it ends."""
    theirs, ours = CONTEXT.Pipe(duplex=False)
    with theirs, ours, ProcessPoolExecutor(jobs, CONTEXT, _begin, (work, theirs)) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise ExportError(
                f"one of {jobs} processes ended before its work was done; if it was killed because memory ran out, "
                "allow fewer cores, such as with taskset -c 0"
            ) from None
        except BaseException:
            # Nobody waits for what they are doing.
            ours.close()
            pool.shutdown(cancel_futures=True)
            raise


_work: Callable[[Any], Any]


def _begin(work: Callable[[Any], Any], parent: Connection) -> None:
    """In a new process: keep the work, and end when the other end of a pipe is closed."""
    global _work
    _work = work
    # Ctrl-C comes to all processes of a terminal; the parent closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # With that thread waiting, libraries would print what the interpreter could not clear up.
    atexit.register(os._exit, 0)


def _end_with(parent: Connection) -> None:
    parent.poll(None)
    os._exit(1)


def _call(item: Any) -> Any:
    return _work(item)
