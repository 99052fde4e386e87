"""Progress: images done, rate, time left and failures, on a terminal or in a log."""

import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


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


class Meter:
    """A progress bar where a person looks, a line now and then where the output is a log."""

    def __init__(self, total: int, done: int, failures: int, doing: str = "explaining") -> None:
        self.total, self.done, self.failures = total, done, failures
        self._before, self._start, self._said = done, time.monotonic(), 0.0
        console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn(f"[bold]{doing}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._log = not console.is_terminal
        self._task = self._bar.add_task("images", total=total, completed=done, rate="", failed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Images per second of this run, start-up included."""
        return (self.done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, images: int, failures: int) -> None:
        """Count a unit: images done, those that failed included, and how many of them failed."""
        self.done, self.failures = self.done + images, self.failures + failures
        rate = self.rate
        failed = f"{self.failures} failed"
        self._bar.update(self._task, completed=self.done, rate=f"{rate:.1f} images/s", failed=failed)
        now = time.monotonic()
        if self._log and (now - self._said >= SECONDS_BETWEEN_LINES or self.done == self.total):
            self._said = now
            left = (self.total - self.done) / rate if rate else 0.0
            line = f"{self.done}/{self.total} images, {rate:.1f} images/s, {left:.0f} s left, {failed}"
            print(line, file=sys.stderr, flush=True)
