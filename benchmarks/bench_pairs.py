"""Does the table of pairs need more memory when there are more images? 10k and 100k made-up images.

Exports are written by the store's own functions, with no model: 1000 classes in genera of ten, whose images are
compared with three others of their genus and mistaken for them now and then; a contrast basis of 14 x 14 cells (a
ViT-B/16's), of random numbers. Each table is made by a process of its own; its memory is the largest resident set, and
how much of it was there before the table was begun (torch and other libraries, which opening an export loads).
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from finer_ray.pairs.table import NAME, pairs_table
from finer_ray.shards import ShardIndex, ShardRef
from finer_ray.store import derived
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile, ShardEntry, Unit
from finer_ray.store.parts import commit, publish
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, IMAGES, METRICS
from finer_ray.store.tensors import create_tensors, write_unit

SIZES = [int(size) for size in os.environ.get("SIZES", "10000,100000").split(",")]
CLASSES, GENUS = 1000, 10
LAYOUT = Layout(
    maps=("gradcam", "finer_gradcam"),
    references=3,
    grid=(14, 14),
    embedding=None,
    basis=True,
    rows_per_unit=512,
    rows_per_chunk=32,
)


def write_export(url: str, images: int) -> None:
    """A finished export of so many images."""
    folder, shard = Folder(url), ShardRef("made-up.tar", "webdataset")
    starts = tuple(range(-(-images // LAYOUT.rows_per_unit)))
    entry = ShardEntry(index=ShardIndex(shard, images, "", starts).to_json(), stamp=None, first_unit=0)
    manifest = Manifest(
        status="running",
        config={"saliency": {"gamma": 0.6}},
        config_fingerprint="c",
        model_fingerprint="m",
        head_fingerprint="h",
        classes=[f"species {index:04d}" for index in range(CLASSES)],
        transform={},
        layout=LAYOUT,
        shards=[entry],
        tables={},
        counts={},
        versions={},
    )
    create_tensors(folder, LAYOUT, manifest.rows())
    units = manifest.units()
    for unit, lines, tensors in made(units):
        write_unit(folder, LAYOUT, unit.number, tensors)
        empty = {"metrics": METRICS.empty_table(), "failures": FAILURES.empty_table()}
        commit(folder, unit.number, {**empty, "images": lines})
    plan = ManifestFile(folder, PLAN)
    plan.write(manifest)
    publish(folder, [unit.number for unit in units], plan, ManifestFile(folder, EXPORT))


def made(units: list[Unit]) -> Iterator[tuple[Unit, pa.Table, dict[str, np.ndarray]]]:
    """Images and tensors of each unit."""
    dice = np.random.default_rng(0)
    console = Console(stderr=True)
    for unit in track(units, description="writing", console=console):
        label = dice.integers(0, CLASSES, unit.count)
        genus = label // GENUS * GENUS
        # The class itself, mistaken in a fifth of images, and three others of its genus.
        order = (label[:, None] - genus[:, None] + np.argsort(dice.random((unit.count, GENUS - 1)), axis=1) + 1) % GENUS
        others = (genus[:, None] + order).astype(np.int32)
        wrong = dice.random(unit.count) < 0.2
        target = np.where(wrong, others[:, 0], label).astype(np.int32)
        references = np.where(wrong[:, None], others[:, 1:4], others[:, :3])
        rows = unit.number * LAYOUT.rows_per_unit + np.arange(unit.count)
        columns: dict[str, Any] = {
            "row": rows,
            "key": [str(row) for row in rows],
            "shard": [unit.url] * unit.count,
            "index": rows,
            "label": label,
            "target": target,
            "predicted": target,
            "predicted_probability": dice.random(unit.count),
            "reference_probabilities": list(dice.random((unit.count, 3))),
            "logit": dice.normal(5, 1, unit.count),
            "references": list(references),
            "reference_logits": list(dice.normal(3, 1, (unit.count, 3))),
            "width": [224] * unit.count,
            "height": [224] * unit.count,
        }
        lines = pa.table(
            [pa.array(columns.get(name, [None] * unit.count), IMAGES.field(name).type) for name in IMAGES.names], IMAGES
        )
        shapes = LAYOUT.shapes()
        tensors = {
            "maps": np.zeros((unit.count, *shapes["maps"])),
            "maps_scale": np.zeros((unit.count, *shapes["maps_scale"])),
            "references": references,
            "basis": dice.uniform(-1, 1, (unit.count, *shapes["basis"])),
            "basis_scale": dice.random(unit.count),
        }
        yield unit, lines, tensors


def measure(url: str, answers: Any) -> None:
    """Make the table of an export, in a process of its own; its seconds and memory in MiB go into a queue."""
    export = open_export(url)
    before, start = _largest_mib(), time.perf_counter()
    table = pairs_table(export)
    derived.write(export, NAME, table)
    record = {"pairs": len(table), "seconds": time.perf_counter() - start, "before_mib": before}
    answers.put({**record, "largest_mib": _largest_mib(), "references": sum(table["images"].to_pylist())})


def _largest_mib() -> float:
    """The largest resident set so far of this program alone, which `ru_maxrss` is not: it begins with the parent's."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print the table, write the JSON beside this file."""
    records: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    for images in SIZES:
        with tempfile.TemporaryDirectory() as place:
            url = f"{place}/out"
            write_export(url, images)
            answers = spawn.Queue()
            process = spawn.Process(target=measure, args=(url, answers))
            process.start()
            record = answers.get()
            process.join()
        assert record.pop("references") == LAYOUT.references * images
        more = {"added_mib": record["largest_mib"] - record["before_mib"]}
        records.append({"images": images, **record, **more, "images_per_second": images / record["seconds"]})
        print(records[-1], file=sys.stderr)
    table = Table(title=f"{os.cpu_count()} cores, {CLASSES} classes, 14 x 14 cells")
    for column in records[0]:
        table.add_column(column.replace("_", " "), justify="right")
    for record in records:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in record.values()))
    Console(width=120).print(table)
    setting = {"cores": os.cpu_count(), "classes": CLASSES, "grid": LAYOUT.grid}
    Path(__file__).with_suffix(".json").write_text(json.dumps({**setting, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
