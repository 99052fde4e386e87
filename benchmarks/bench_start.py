"""How long from `finer-ray export` to the first image explained, and with what?

A small CNN with random weights and the demo's 40 photos, so that nearly all is the start: imports, Ray, the model in
this process and where it explains. The runs take turns. A phase ends where the log's next line says so. To start Ray
beside the imports was tried: on two cores each takes as much longer as is gained.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROUNDS = 2
# The log's lines at which phases begin; the first images' line is told by its rate.
PHASES = {
    "the command": "",
    "libraries": "loading libraries",
    "model": "loading the model",
    "shards": "counting the images",
    "Ray": "starting Ray",
    "model, where it explains": "loading the model where it explains",
}
FIRST = "images/s"


def job_file(folder: Path) -> Path:
    photos = resources.files("finer_ray.demo") / "photos" / "*.tar"
    path = folder / "job.yaml"
    path.write_text(
        f"input: {{shards: '{photos}'}}\n"
        "model: {backbone: timm:test_resnet, weights: random, image_size: 64}\n"
        f"output: {{url: '{folder / 'out'}', rows_per_unit: 8, rows_per_chunk: 4}}\n"
    )
    return path


def start_of(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds that each phase took, and all until the first images were explained."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    begun, marks = time.perf_counter(), {"the command": 0.0}
    names = {line: name for name, line in PHASES.items()}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        name = "first" if FIRST in line else names.get(line.strip(), "")
        if name:
            marks.setdefault(name, time.perf_counter() - begun)
    assert process.wait() == 0
    times = list(marks.items())
    phases = {name: after - at for (name, at), (_, after) in pairwise(times) if name != "first"}
    return {**phases, "first images": marks["first"]}


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Medians of each way, by phase."""
    path = str(job_file(folder))
    command = ["-m", "finer_ray", "export", path]
    ways = {
        "on Ray": [*command, "--set", "compute.executor=ray"],
        "inline": [*command, "--set", "compute.executor=inline"],
    }
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in track(range(ROUNDS), "taking turns", transient=True):
        for way, arguments in ways.items():
            found[way].append(start_of(folder, arguments))
    return {
        way: {name: round(statistics.median(turn[name] for turn in turns), 1) for name in turns[0]}
        for way, turns in found.items()
    }


def show(found: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"seconds, medians of {ROUNDS} turns", title_justify="left")
    table.add_column("")
    for way in found:
        table.add_column(way, justify="right")
    for name in [*PHASES, "first images"]:
        table.add_row(name, *(str(phases.get(name, "")) for phases in found.values()))
    Console(width=120).print(table)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench_start_") as folder:
        found = measure(Path(folder))
    show(found)
    record: dict[str, Any] = {"rounds": ROUNDS, "cpus": os.cpu_count(), "load": os.getloadavg()[0], "medians": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
