"""The rate of a whole job, as its commits tell it."""

import time

from finer_ray.config.schema import Config
from finer_ray.pipeline.export import export


def run_timed(config: Config) -> tuple[list[tuple[float, int]], float]:
    """Run an export; its commits as (time, images done), and seconds of the whole run."""
    marks: list[tuple[float, int]] = []
    start = time.perf_counter()
    export(config, on_unit=lambda progress: marks.append((time.perf_counter(), progress.done)))
    return marks, time.perf_counter() - start


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
