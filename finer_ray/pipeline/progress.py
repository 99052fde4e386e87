"""Progress: what is begun, then images done, rate, time left and failures, on a terminal or in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from finer_ray.library_log import error_output

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
    """A progress bar where a person looks, a line now and then where the output is a log.

    Args:
        progress: how far the work is; None while its images are not counted yet.
        doing: what is done with them, in a word.
    """

    def __init__(self, progress: Progress | None, doing: str) -> None:
        console = Console(file=error_output())
        self._log, self._said, self._doing = not console.is_terminal, 0.0, doing
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=console,
            disable=self._log,
            # While what libraries print is kept apart, it is not drawn above the bar either.
            redirect_stderr=error_output() is sys.stderr,
        )
        self._task = self._bar.add_task(doing, total=None, count="", rate="", failed="")
        if progress is not None:
            self._count(progress)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Show it no longer; a second time does nothing."""
        self._bar.stop()

    def announce(self, doing: str) -> None:
        """Say what is begun, until images are counted."""
        self._bar.update(self._task, description=doing)
        if self._log:
            print(doing, file=error_output(), flush=True)

    def show(self, progress: Progress) -> None:
        """Show how far the run is now."""
        rate, failed = progress.rate, f"{progress.failures} failed"
        self._count(progress)
        self._bar.update(self._task, rate=f"{rate:.1f} images/s", failed=failed)
        now = time.monotonic()
        if self._log and (now - self._said >= SECONDS_BETWEEN_LINES or progress.done == progress.total):
            self._said = now
            left = (progress.total - progress.done) / rate if rate else 0.0
            line = f"{progress.done}/{progress.total} images, {rate:.1f} images/s, {left:.0f} s left, {failed}"
            print(line, file=error_output(), flush=True)

    def _count(self, progress: Progress) -> None:
        count = f"{progress.done}/{progress.total}"
        self._bar.update(
            self._task, description=self._doing, completed=progress.done, total=progress.total, count=count
        )


_shown: ProgressBar | None = None


@contextmanager
def run_bar() -> Iterator[ProgressBar]:
    """The one bar of a run, for a while: whoever asks for one inside gets it too."""
    global _shown
    if _shown is not None:
        yield _shown
        return
    with ProgressBar(None, "explaining") as _shown:
        try:
            yield _shown
        finally:
            _shown = None


def announce(doing: str) -> None:
    """Say on the bar that is shown, if one is, what is begun."""
    if _shown is not None:
        _shown.announce(doing)


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
