"""Timing: runs take turns, and a turn ends when the device has done everything."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_sections.setting import Setting

Run = Callable[[], Any]
MAX_REPEATS = 64


def synchronize(setting: Setting) -> None:
    """Wait until the device has done all that it was given."""
    if setting.cuda:
        torch.cuda.synchronize(setting.device)


def seconds_of(setting: Setting, run: Run, repeats: int = 1) -> float:
    """Seconds of one run."""
    synchronize(setting)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(setting)
    return (time.perf_counter() - start) / repeats


def take_turns(setting: Setting, runs: dict[str, Run]) -> dict[str, list[float]]:
    """Seconds of one run, by name and round, after two that are not counted."""
    repeats = {}
    for name, run in runs.items():
        seconds_of(setting, run)
        once = seconds_of(setting, run)
        repeats[name] = max(1, min(MAX_REPEATS, round(setting.seconds / once)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(setting.rounds):
        for name, run in runs.items():
            times[name].append(seconds_of(setting, run, repeats[name]))
    return times


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def rates(setting: Setting, runs: dict[str, Run], amount: float) -> dict[str, dict[str, float]]:
    """Amount (images, bytes, operations) per second, by name."""
    times = take_turns(setting, runs)
    return {name: spread([amount / seconds for seconds in found]) for name, found in times.items()}
