"""What a job tells a cluster's Prometheus, through the agent of each of Ray's nodes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from ray.util.metrics import Counter

# By name, what it counts and by which tags; Prometheus knows each as ray_NAME_total.
COUNTERS = {
    "finer_ray_images": ("Images that are explained and committed", ("export",)),
    "finer_ray_failures": ("Images that could not be used", ("export",)),
    "finer_ray_stage_units": ("Units of work that have passed a stage", ("stage", "export")),
    "finer_ray_stage_seconds": ("Seconds that processes have worked, waiting left out", ("stage", "export")),
}


@dataclass(frozen=True)
class Timed:
    """A stage's function that counts its calls and their seconds.

    Attributes:
        call: the function, of one unit or table.
        stage: its name.
        export: URL of the export.
    """

    call: Callable[[Any], Any]
    stage: str
    export: str

    def __call__(self, given: Any) -> Any:
        """The function's result. A call that raises is not counted."""
        start = time.perf_counter()
        found = self.call(given)
        tags = {"stage": self.stage, "export": self.export}
        _count("finer_ray_stage_seconds", time.perf_counter() - start, tags)
        _count("finer_ray_stage_units", 1, tags)
        return found


def count_images(line: dict[str, Any], export: str) -> None:
    """Count what a unit has brought.

    Args:
        line: of the job's last stage; `images` and `failures` of it are counted, where it has them.
        export: URL of the export.
    """
    for name in ("images", "failures"):
        _count(f"finer_ray_{name}", line.get(name, 0), {"export": export})


def _count(name: str, value: float, tags: dict[str, str]) -> None:
    # Ray refuses to add nothing.
    if value:
        _counter(name).inc(value, tags)


@cache
def _counter(name: str) -> Counter:
    return Counter(name, *COUNTERS[name])
