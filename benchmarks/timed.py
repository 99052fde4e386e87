"""Timing: the rate of a whole job, as its commits tell it; runs that take turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

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


def in_turns(
    runs: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of some runs by name, each `rounds` times, taking turns; a first turn is not counted.

    Args:
        runs: what is timed, by name.
        rounds: how often each.
        clock: in seconds; `time.process_time` counts what this process computes, whatever else the machine does.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if turn:
                times[name].append(clock() - start)
    return times
