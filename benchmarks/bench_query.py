"""Which Parquet layout makes an export quick to ask? 5 million images with two maps: 10 million lines of metrics.

The tables are made up (beta-distributed metrics, harder and easier classes, a fifth of the images without a region)
and written by the export's own writer, in files as large as an export's; curves are null. The other layouts differ in
the options of `pyarrow.parquet.write_table` alone. Queries run on two threads and take turns over the layouts. `view`
is what `finer-ray query` does (Arrow reads, DuckDB computes), `parquet` is DuckDB's own reader on the same files.
"""

import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from finer_ray.config.schema import OutputConfig
from finer_ray.store.manifest import Manifest
from finer_ray.store.parts import UNITS_PER_FILE
from finer_ray.store.query import connect
from finer_ray.store.reading import Export
from finer_ray.store.storage import Folder
from finer_ray.store.tables import IMAGES, METRICS, write_options

IMAGES_MADE = 5_000_000
CLASSES = 1000
MAPS = ("gradcam", "finer_gradcam")
THREADS = 2
ROUNDS = 5
IMAGES_PER_FILE = UNITS_PER_FILE * OutputConfig(url="x").rows_per_unit
CHOSEN = write_options(METRICS)
BEFORE = {"compression": "zstd", "row_group_size": 131_072}
LAYOUTS: dict[str, dict[str, Any]] = {
    "as written": CHOSEN,
    "dictionaries for all, as pyarrow does": BEFORE,
    "floats not split": {**CHOSEN, "column_encoding": {"row": "DELTA_BINARY_PACKED"}},
    "lz4": {**CHOSEN, "compression": "lz4"},
    "groups of 16k": {**CHOSEN, "row_group_size": 16_384},
    "groups of 1M": {**CHOSEN, "row_group_size": 1_048_576},
    "sorted by map, then row": CHOSEN,
}
BY_CLASS = """\
SELECT {of} AS class, map, avg(deletion_auc), stddev_samp(deletion_auc) / sqrt(count(deletion_auc)),
       avg(localisation), stddev_samp(localisation) / sqrt(count(localisation))
FROM {table} GROUP BY ALL"""
QUERIES = {
    "by class": BY_CLASS.format(of="class", table="metrics"),
    "by class, joined": BY_CLASS.format(of="coalesce(label, target)", table="metrics JOIN images USING (row)"),
    "one image": "SELECT * FROM metrics WHERE row = 3333333",
    "worst 10": "SELECT row, deletion_auc FROM metrics WHERE map = 'finer_gradcam' ORDER BY 2 DESC LIMIT 10",
}


def pieces(images: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Tables of images and metrics, a file's worth at a time."""
    generator = np.random.default_rng(0)
    for first in range(0, images, IMAGES_PER_FILE):
        rows = np.arange(first, min(first + IMAGES_PER_FILE, images))
        classes = generator.integers(0, CLASSES, len(rows)).astype(np.int32)
        yield image_lines(rows, classes, generator), metric_lines(rows, classes, generator)


def image_lines(rows: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> pa.Table:
    right = generator.random(len(rows)) < 0.8
    predicted = np.where(right, classes, generator.integers(0, CLASSES, len(rows))).astype(np.int32)
    columns: dict[str, Any] = {
        "row": rows,
        "key": [f"{row:09d}" for row in rows.tolist()],
        "shard": [f"s3://bucket/train-{row // 5000:04d}.tar" for row in rows.tolist()],
        "index": rows % 5000,
        "label": pa.array(classes, mask=generator.random(len(rows)) < 0.1),
        "target": classes,
        "predicted": predicted,
        "references": triples(generator.integers(0, CLASSES, (len(rows), 3)).astype(np.int32)),
        "width": generator.integers(300, 700, len(rows)).astype(np.int32),
        "height": generator.integers(300, 700, len(rows)).astype(np.int32),
    }
    columns |= {name: np.full(len(rows), 224, np.int32) for name in ("input_width", "input_height")}
    columns["view"] = pa.array([[38.0, 0.0, 262.0, 224.0]] * len(rows))
    for name in ("probability", "predicted_probability", "logit"):
        columns[name] = generator.beta(5, 2, len(rows)).astype(np.float32)
    for name in ("reference_probabilities", "reference_logits"):
        columns[name] = triples(generator.beta(1, 12, (len(rows), 3)).astype(np.float32))
    return pa.table([columns[name] for name in IMAGES.names], schema=IMAGES)


def metric_lines(rows: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> pa.Table:
    count = len(MAPS) * len(rows)
    of = np.repeat(classes, len(MAPS))
    hard = (of % 97) / 97
    bare = np.repeat(generator.random(len(rows)) < 0.2, len(MAPS))
    here = generator.beta(5, 2, count)
    at = {"05": here * generator.beta(6, 2, count), "10": here * generator.beta(3, 2, count)}
    there = {share: generator.beta(1, 12, (count, 3)) for share in at}
    localisation = (generator.beta(2, 3, count) * (1 - 0.3 * hard)).astype(np.float32)
    columns: dict[str, Any] = {
        "row": np.repeat(rows, len(MAPS)),
        "class": of,
        "map": pa.DictionaryArray.from_arrays(np.tile(np.arange(len(MAPS), dtype=np.int8), len(rows)), MAPS).cast(
            "string"
        ),
        "localisation": pa.array(localisation, mask=bare),
        "pointing_hit": pa.array(generator.random(count) < localisation, mask=bare),
        "region": pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8), mask=bare), ["mask"]).cast(
            "string"
        ),
        "deletion_auc": generator.beta(2, 5, count) * (0.6 + 0.4 * hard),
    }
    for share, left in at.items():
        columns[f"relative_drop_{share}"] = here - left - there[share].mean(1) * 0.1
        columns[f"confidence_drop_{share}"] = (here - left) / here
        columns[f"probability_{share}"] = left
        columns[f"reference_probabilities_{share}"] = triples(there[share].astype(np.float32))
    # Values are float32 before anything is written: float64 digits would not be an export's. Other metrics are null.
    none = pa.nulls(count)
    made = {field.name: pa.array(columns.get(field.name, none)).cast(field.type) for field in METRICS}
    return pa.table(made, METRICS)


def triples(values: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(0, values.size + 1, 3, dtype=np.int32), values.ravel())


def write(root: Path) -> None:
    """All layouts: images once, metrics in each."""
    folder, files = Folder(str(root)), -(-IMAGES_MADE // IMAGES_PER_FILE)
    for number, (lines, metrics) in enumerate(track(pieces(IMAGES_MADE), "writing", total=files, transient=True)):
        folder.write_table(f"images/{number:02d}.parquet", lines)
        for name, options in LAYOUTS.items():
            if options is CHOSEN and "sorted" not in name:
                folder.write_table(f"{name}/{number:02d}.parquet", metrics)
                continue
            (root / name).mkdir(exist_ok=True)
            ordered = metrics.sort_by([("map", "ascending"), ("row", "ascending")]) if "sorted" in name else metrics
            pq.write_table(ordered, root / name / f"{number:02d}.parquet", **options)


def views(root: Path, layout: str) -> duckdb.DuckDBPyConnection:
    """What `finer-ray query` asks."""
    folder = Folder(str(root))
    tables = {name: [f"{place}/{file}" for file in folder.names(place)] for name, place in places(layout).items()}
    manifest = Manifest.model_construct(tables=tables, classes=[])  # type: ignore[call-arg]
    return connect(Export(folder, manifest), THREADS)


def parquet(root: Path, layout: str) -> duckdb.DuckDBPyConnection:
    """DuckDB's own reader."""
    connection = duckdb.connect(config={"threads": str(THREADS)})
    for name, place in places(layout).items():
        connection.execute(f"CREATE VIEW {name} AS FROM '{root}/{place}/*.parquet'")
    return connection


def places(layout: str) -> dict[str, str]:
    return {"images": "images", "metrics": layout}


def measure(root: Path) -> dict[str, Any]:
    """Seconds by layout, reader and query, all in turns; bytes per line of metrics."""
    pa.set_cpu_count(THREADS)
    readers: dict[str, Callable[[Path, str], duckdb.DuckDBPyConnection]] = {"view": views, "parquet": parquet}
    open_ones = {(layout, name): reader(root, layout) for layout in LAYOUTS for name, reader in readers.items()}
    times: dict[tuple[str, str, str], list[float]] = {}
    for _ in track(range(ROUNDS), "asking", transient=True):
        for (layout, reader), connection in open_ones.items():
            for query, sql in QUERIES.items():
                start = time.perf_counter()
                connection.execute(sql).fetchall()
                times.setdefault((layout, reader, query), []).append(time.perf_counter() - start)
    found: dict[str, Any] = {}
    for layout in LAYOUTS:
        size = sum(path.stat().st_size for path in (root / layout).iterdir())
        found[layout] = {"bytes_per_line": round(size / (len(MAPS) * IMAGES_MADE), 1)}
        for reader in readers:
            found[layout][reader] = {query: spread(times[layout, reader, query]) for query in QUERIES}
    return found


def spread(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 3),
        "low": round(min(seconds), 3),
        "high": round(max(seconds), 3),
    }


def show(found: dict[str, Any]) -> None:
    for reader in ("view", "parquet"):
        table = Table(title=f"{reader}: seconds on {THREADS} threads, median (low-high)", title_justify="left")
        for column in ("metrics", "bytes / line", *QUERIES):
            table.add_column(column, justify="left" if column == "metrics" else "right")
        for layout, figures in found.items():
            cells = [f"{t['median']:.2f} ({t['low']:.2f}-{t['high']:.2f})" for t in figures[reader].values()]
            table.add_row(layout, f"{figures['bytes_per_line']:.1f}", *cells)
        Console(width=140).print(table)


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="bench_query_"))
    try:
        write(root)
        found = measure(root)
        size = sum(path.stat().st_size for path in (root / "images").iterdir())
    finally:
        shutil.rmtree(root)
    show(found)
    record = {
        "images": IMAGES_MADE,
        "metric_lines": len(MAPS) * IMAGES_MADE,
        "images_per_file": IMAGES_PER_FILE,
        "rounds": ROUNDS,
        "threads": THREADS,
        "versions": {"duckdb": duckdb.__version__, "pyarrow": pa.__version__, "python": platform.python_version()},
        "queries": QUERIES,
        "images_bytes_per_line": round(size / IMAGES_MADE, 1),
        "seconds": found,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
