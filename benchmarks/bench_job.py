"""What does Ray cost? The job on Ray against the same stages one after the other in one process, on the same cores.

Both decode, explain and write the same photos with ViT-B/16 (random weights, whose values cost what others cost).
Throughput is that between the first and the last commit, so that neither start-up nor the model's loading counts.
The two take turns. Once, of a few photos, the job on Ray with deletion in 20 steps and both drops, for both maps.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.timed import rate_between, run_timed
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.demo.run_demo import demo_config
from finer_ray.pipeline.cluster import connected
from finer_ray.shards import find_shards

ROUNDS = int(os.environ.get("ROUNDS", "3"))
COPIES, ROWS = int(os.environ.get("COPIES", "8")), 32
MASKED = {"deletion": True, "steps": 20, "drops": True}
# Rows of a unit whose images are masked, each dozens of times.
FEW = 8


def config_of(executor: str, shards: list[str], out: str, rows: int, metrics: dict[str, Any]) -> Config:
    """The job: default maps, and no metrics but localisation and those given."""
    return parse_config(
        {
            "input": {"shards": shards},
            "model": {"backbone": "timm:vit_base_patch16_224", "weights": "random"},
            "output": {"url": out, "rows_per_unit": rows, "rows_per_chunk": rows},
            "metrics": metrics,
            "compute": {"executor": executor},
        }
    )


def rate(
    executor: str, shards: list[str], rows: int = ROWS, metrics: dict[str, Any] | None = None
) -> tuple[float, float]:
    """Images per second between the first and the last commit, and seconds of the whole run."""
    with tempfile.TemporaryDirectory() as out:
        marks, whole = run_timed(config_of(executor, shards, out, rows, metrics or {}))
    found = rate_between(marks)
    assert found is not None
    return found, whole


def main() -> None:
    """Print the table, write the JSON beside this file."""
    rates: dict[str, list[float]] = {"inline": [], "ray": []}
    seconds: dict[str, list[float]] = {"inline": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder, connected():
        shards = []
        for ref in find_shards(demo_config(Path(folder)).input.shards):
            for copy in range(COPIES):
                shards.append(f"{folder}/{copy:02d}-{Path(ref.url).name}")
                Path(shards[-1]).write_bytes(Path(ref.url).read_bytes())
        for _ in range(ROUNDS):
            for executor in rates:
                found, whole = rate(executor, shards)
                rates[executor].append(found)
                seconds[executor].append(whole)
                print(f"{executor}: {found:.2f} images/s, {whole:.0f} s", file=sys.stderr)
        masked, _ = rate("ray", shards[::COPIES], FEW, MASKED)
    ratios = [ray / inline for ray, inline in zip(rates["ray"], rates["inline"], strict=True)]
    record = {
        "model": "timm:vit_base_patch16_224",
        "images": COPIES * 40,
        "cores": os.cpu_count(),
        "rows_per_unit": ROWS,
        "images_per_second": rates,
        "seconds_with_start_up": seconds,
        "ray_over_inline": ratios,
        "median_ray_over_inline": statistics.median(ratios),
        "ray_with_deletion_and_drops": {"steps": 20, "maps": 2, "images": 40, "images_per_second": masked},
    }
    table = Table(
        title=f"ViT-B/16, {COPIES * 40} photos, {os.cpu_count()} cores: images/s between first and last commit"
    )
    for column in ("round", "one process", "Ray", "Ray / one process"):
        table.add_column(column, justify="right")
    for number, (a, b, c) in enumerate(zip(rates["inline"], rates["ray"], ratios, strict=True), 1):
        table.add_row(str(number), f"{a:.2f}", f"{b:.2f}", f"{c:.3f}")
    Console().print(table, f"with deletion in 20 steps and drops: {masked:.3f} images/s")
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
