"""Progress: images done, rate, time left and failures, on a terminal or in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 10.0
# Of work that is often done in a moment, after which it shows how far it is.
SECONDS_UNSEEN = 2.0


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        images, failures: in the whole export.
        new: images, good or not, that this run worked on.
        notes: what the user should know beside that.
        seconds: that it took.
    """

    images: int
    failures: int
    new: int
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        total: images of the whole job.
        done: of these, failures included, also what earlier runs have done.
        failures: among those done.
        new: images done by this run.
        started: when, by `time.monotonic`.
    """

    total: int
    done: int
    failures: int
    new: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Images per second of this run, start-up included."""
        return self.new / max(time.monotonic() - self.started, 1e-9)

    def numbers(self) -> dict[str, float]:
        """What others are told of a run, see `finer_ray.store.lease`."""
        return {"done": self.done, "total": self.total, "failures": self.failures, "rate": self.rate}

    def advanced(self, images: int, failures: int) -> Self:
        """After so many images more, failures included."""
        return replace(self, done=self.done + images, failures=self.failures + failures, new=self.new + images)


class ProgressBar:
    """A progress bar where a person looks, a line now and then where the output is a log."""

    def __init__(self, progress: Progress, doing: str = "explaining") -> None:
        console = Console(file=sys.stderr)
        self._log, self._said = not console.is_terminal, 0.0
        self._bar = Bar(
            TextColumn(f"[bold]{doing}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=console,
            disable=self._log,
        )
        self._task = self._bar.add_task("images", total=progress.total, completed=progress.done, rate="", failed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the run is now."""
        rate, failed = progress.rate, f"{progress.failures} failed"
        self._bar.update(self._task, completed=progress.done, rate=f"{rate:.1f} images/s", failed=failed)
        now = time.monotonic()
        if self._log and (now - self._said >= SECONDS_BETWEEN_LINES or progress.done == progress.total):
            self._said = now
            left = (progress.total - progress.done) / rate if rate else 0.0
            line = f"{progress.done}/{progress.total} images, {rate:.1f} images/s, {left:.0f} s left, {failed}"
            print(line, file=sys.stderr, flush=True)


@contextmanager
def late_bar(total: int, doing: str) -> Iterator[Callable[[int], None]]:
    """A progress bar that only long work shows.

    Args:
        total: images that there are.
        doing: what is done with them, in a word.

    Yields:
        What is to be called with how many images more are done.
    """
    progress, bar = Progress(total, 0, 0), None

    def advance(images: int) -> None:
        nonlocal progress, bar
        progress = progress.advanced(images, 0)
        if bar is None and time.monotonic() - progress.started > SECONDS_UNSEEN:
            bar = stack.enter_context(ProgressBar(progress, doing))
        if bar is not None:
            bar.show(progress)

    with ExitStack() as stack:
        yield advance
