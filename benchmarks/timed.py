"""The rate of a whole job, as its commits tell it."""

import time
from typing import Any

from finer_ray.config.schema import Config
from finer_ray.pipeline import export
from finer_ray.pipeline.progress import Meter

# A module, whose Meter is replaced for a while.
job: Any = export


class Timed(Meter):
    """A meter that remembers when how many images were done."""

    marks: list[tuple[float, int]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        Timed.marks = []

    def advance(self, images: int, failures: int) -> None:
        """Count a unit."""
        super().advance(images, failures)
        Timed.marks.append((time.perf_counter(), self.done))


def run_timed(config: Config) -> tuple[list[tuple[float, int]], float]:
    """Run an export; its commits as (time, images done), and seconds of the whole run."""
    plain, job.Meter = job.Meter, Timed
    start = time.perf_counter()
    try:
        job.export(config)
    finally:
        job.Meter = plain
    return Timed.marks, time.perf_counter() - start


def rate_between(marks: list[tuple[float, int]], first: float = 0.0, last: float = 1.0) -> float | None:
    """Images per second between the commits at two shares of all images; None where they are one.

    The first commits of many processes come together, with work done before them; between a quarter and three
    quarters of all images the pipeline runs as it would in a long job.
    """
    total = marks[-1][1]
    inside = [mark for mark in marks if first * total <= mark[1] <= last * total]
    if len(inside) < 2 or inside[-1][0] <= inside[0][0]:
        return None
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])
