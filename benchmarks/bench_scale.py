"""Does the cost of an image stay the same when there are more? 1k, 10k and 100k images through the job on Ray.

The model is a real, if tiny, ViT (timm's test_vit: 6 blocks of width 64, 160 pixels; random weights); images are
JPEGs of 64 x 64 pixels in tars of 1000. Cost is taken between the first and the last commit, and between a quarter
and three quarters of all images, where the pipeline neither fills nor drains. Memory is the driver's whole resident
set, and the object store's largest use as Ray itself counts it. A last case has few but large photos, whose pixels
together would not fit the object store.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.timed import rate_between, run_timed
from finer_ray.config.loading import parse_config
from finer_ray.pipeline.cluster import connected
from finer_ray.store.verify import verify_export

SIZES = [int(size) for size in os.environ.get("SIZES", "1000,10000,100000").split(",")]
PER_SHARD, PER_UNIT = 1000, 50
LARGE, LARGE_SIDE = 96, 5000


def write_shards(folder: Path, count: int, side: int) -> None:
    """Tars of noise, each image another."""
    folder.mkdir()
    dice = np.random.default_rng(count)
    for first in track(range(0, count, PER_SHARD), description=f"drawing {count}", console=Console(stderr=True)):
        with tarfile.open(folder / f"{first:08d}.tar", "w") as tar:
            for number in range(first, min(first + PER_SHARD, count)):
                pixels = dice.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
                info = tarfile.TarInfo(f"{number:08d}.jpg")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)


@contextmanager
def watching() -> Iterator[dict[str, float]]:
    """The largest memory of driver and object store while the context lasts, in MiB."""
    driver, peaks, over = psutil.Process(), {"driver": 0.0, "object_store": 0.0, "workers": 0.0}, threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            peaks["driver"] = max(peaks["driver"], driver.memory_info().rss / 2**20)
            peaks["workers"] = max(peaks["workers"], _largest_worker(driver))
            try:
                stored = get_memory_info_reply(get_state_from_address()).store_stats
                peaks["object_store"] = max(peaks["object_store"], stored.object_store_bytes_used / 2**20)
            except Exception:  # noqa: S112 - a moment without an answer
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _largest_worker(driver: psutil.Process) -> float:
    largest = 0.0
    for process in driver.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ReadUnits"):
                largest = max(largest, process.memory_info().rss / 2**20)
        except psutil.Error:
            continue
    return largest


def measure(shards: Path, out: Path, per_unit: int) -> dict[str, Any]:
    """One export: cost, memory, files."""
    config = parse_config(
        {
            "input": {"shards": str(shards)},
            "model": {"backbone": "timm:test_vit", "weights": "random"},
            "output": {"url": str(out), "rows_per_unit": per_unit, "rows_per_chunk": min(50, per_unit)},
        }
    )
    start = time.perf_counter()
    with watching() as peaks:
        marks, whole = run_timed(config)
    (first, before), (last, images) = marks[0], marks[-1]
    files = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    assert verify_export(str(out), keys=False) == []
    return {
        "images": images,
        "seconds": whole,
        "start_up_seconds": first - start,
        "ms_per_image": 1000 * (last - first) / (images - before),
        "ms_per_image_in_the_middle": 1000 / (rate_between(marks, 0.25, 0.75) or float("nan")),
        "driver_mib": peaks["driver"],
        "largest_reader_mib": peaks["workers"],
        "object_store_mib": peaks["object_store"],
        "files": len(files),
        "images_per_file": images / len(files),
        "bytes_per_image": sum(files) / images,
        "largest_file_bytes": max(files),
    }


def main() -> None:
    """Print the table, write the JSON beside this file."""
    records: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place, connected():
        folder = Path(place)
        write_shards(folder / "warm", 4 * PER_UNIT, 64)
        measure(folder / "warm", folder / "warm-out", 50)
        for size in SIZES:
            write_shards(folder / str(size), size, 64)
            records[f"{size}"] = measure(folder / str(size), folder / f"out-{size}", PER_UNIT)
            print(records[f"{size}"], file=sys.stderr)
        write_shards(folder / "large", LARGE, LARGE_SIDE)
        records[f"{LARGE} of {LARGE_SIDE} x {LARGE_SIDE}"] = measure(folder / "large", folder / "large-out", 32)
    table = Table(title=f"test_vit, {os.cpu_count()} cores, {PER_UNIT} rows a unit")
    names = list(next(iter(records.values())))
    for column in ("", *names):
        table.add_column(column.replace("_", " "), justify="right")
    for title, record in records.items():
        table.add_row(
            title, *(f"{record[name]:.4g}" if record[name] < 1e4 else f"{record[name]:.0f}" for name in names)
        )
    Console(width=200).print(table)
    Path(__file__).with_suffix(".json").write_text(json.dumps({"cores": os.cpu_count(), **records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
