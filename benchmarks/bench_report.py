"""How much memory does a report need, and how long does it take? 20,000 made-up images, 2,000 and 20,000 pages.

The export is written by the store's own functions, with no model: 200 classes, four maps and a contrast basis of
14 x 14 cells, curves, boxes; its photos are 16 JPEGs again and again, in real tar shards. Each report is written by
`finer-ray report` in a process of its own. Every 0.2 s the memory of it and of all that it has started is added up:
PSS (pages that processes share count once) and RSS (they count in each).

`python benchmarks/bench_report.py [CHECKOUT]`: an earlier checkout of this repository is measured, too.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from finer_ray.config.loading import parse_config
from finer_ray.images.transform import Transform
from finer_ray.saliency.registration import Registration
from finer_ray.shards import ShardRef, fields_of, index_shard
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile, ShardEntry, Unit
from finer_ray.store.parts import commit, publish
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, IMAGES, METRICS
from finer_ray.store.tensors import create_tensors, to_half, write_unit

IMAGES_MADE = int(os.environ.get("IMAGES", "20000"))
PAGES = [int(pages) for pages in os.environ.get("PAGES", "2000,20000").split(",")]
PER_SHARD, PHOTOS, CLASSES, STEPS = 2500, 16, 200, 14
SECONDS_BETWEEN = 0.2
MAPS = ("gradcam", "finer_gradcam", "layercam", "finer_layercam")
LAYOUT = Layout(
    maps=MAPS, references=3, grid=(14, 14), embedding=None, basis=True, rows_per_unit=512, rows_per_chunk=32,
    registration=Registration((7.5, 7.5), (16.0, 16.0)),
)  # fmt: skip
HERE = Path(__file__).resolve().parents[1]


def write_export(root: Path) -> str:
    """The shards and a finished export; its URL."""
    folder, random = Folder(str(root / "out")), np.random.default_rng(0)
    photos = [photo(random) for _ in range(PHOTOS)]
    groups = [range(first, min(first + PER_SHARD, IMAGES_MADE)) for first in range(0, IMAGES_MADE, PER_SHARD)]
    shards = [
        shard(root / "in" / f"train-{number:04d}.tar", images, photos)
        for number, images in enumerate(track(groups, "shards", transient=True))
    ]
    indices = [index_shard(ref, fields_of("webdataset"), LAYOUT.rows_per_unit) for ref in shards]
    first, entries = 0, []
    for index in indices:
        entries.append(ShardEntry(index=index.to_json(), stamp=None, first_unit=first))
        first += len(index.starts)
    config = parse_config(
        {
            "input": {"shards": [ref.url for ref in shards]},
            "model": {"backbone": "timm:vit_base_patch16_224", "weights": "random", "image_size": 224},
            "saliency": {"maps": list(MAPS), "references": LAYOUT.references},
            "output": {"url": folder.url, "rows_per_unit": LAYOUT.rows_per_unit},
        }
    )
    manifest = Manifest(
        status="running", config=config.model_dump(mode="json"), config_fingerprint="c", model_fingerprint="m",
        head_fingerprint="h", classes=[f"species {index:03d}" for index in range(CLASSES)],
        transform=asdict(Transform(size=(224, 224), resize="squash")), layout=LAYOUT, shards=entries, counts={},
        versions={}, tables={},
    )  # fmt: skip
    create_tensors(folder, LAYOUT, manifest.rows())
    for unit in track(manifest.units(), "units", transient=True):
        write_rows(folder, unit, random)
    plan = ManifestFile(folder, PLAN)
    plan.write(manifest)
    publish(folder, [unit.number for unit in manifest.units()], plan, ManifestFile(folder, EXPORT))
    return folder.url


def photo(random: np.random.Generator) -> bytes:
    """A photo of 500 x 375 pixels with some detail, as JPEG."""
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    fine = np.asarray(coarse, np.int16) + random.integers(-12, 13, (375, 500, 1))
    buffer = io.BytesIO()
    Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def shard(path: Path, images: range, photos: list[bytes]) -> ShardRef:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image in images:
            note = json.dumps({"box_xyxy": [100, 60, 380, 300]}).encode()
            for name, body in ((f"{image:06d}.jpg", photos[image % PHOTOS]), (f"{image:06d}.json", note)):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return ShardRef(str(path), "webdataset")


def write_rows(folder: Folder, unit: Unit, random: np.random.Generator) -> None:
    """One unit: random maps, and lines that agree with them."""
    count, k = unit.count, LAYOUT.references
    first = unit.number * LAYOUT.rows_per_unit
    label = random.integers(0, CLASSES, count)
    right = random.random(count) < 0.8
    predicted = np.where(right, label, (label + 1) % CLASSES)
    references = (predicted[:, None] + 1 + np.arange(k)) % CLASSES
    maps, maps_scale = to_half(random.random((count, len(MAPS), *LAYOUT.grid), np.float32), (2, 3))
    basis, basis_scale = to_half(random.standard_normal((count, 1 + k, *LAYOUT.grid), np.float32), (1, 2, 3))
    tensors: dict[str, np.ndarray] = {
        "maps": maps,
        "maps_scale": maps_scale,
        "basis": basis,
        "basis_scale": basis_scale,
    }
    write_unit(folder, LAYOUT, unit.number, {**tensors, "references": references.astype(np.int32)})
    lines, metrics = [], []
    for place in range(count):
        row, number = first + place, unit.first_index + place
        key = f"{int(Path(unit.url).stem[-4:]) * PER_SHARD + number:06d}"
        line: dict[str, Any] = {"row": row, "key": key, "shard": unit.url, "index": number, "label": label[place]}
        line |= {"target": predicted[place], "predicted": predicted[place], "references": references[place]}
        line |= {"width": 500, "height": 375, "probability": 0.7, "predicted_probability": 0.7, "logit": 9.0}
        line |= {"input_width": 224, "input_height": 224}
        lines.append(line | {"reference_probabilities": [0.1] * k, "reference_logits": [7.0, 6.5, 6.0]})
        for name in MAPS:
            known: dict[str, Any] = {"row": row, "class": label[place], "map": name, "region": "box"}
            known |= {"localisation": random.random(), "deletion_auc": random.random(), "pointing_hit": True}
            known |= {"deletion_curve": random.random(STEPS + 1), "insertion_curve": random.random(STEPS + 1)}
            metrics.append(known)
    tables = {"images": pa.Table.from_pylist(lines, IMAGES), "metrics": pa.Table.from_pylist(metrics, METRICS)}
    commit(folder, unit.number, {**tables, "failures": FAILURES.empty_table()})


def measure(checkout: Path, url: str, pages: int, to: Path) -> dict[str, Any]:
    """One report by one checkout: seconds, and the largest sums of memory, MB."""
    command = [sys.executable, "-m", "finer_ray", "report", url, "--images", str(pages), "--to", str(to)]
    start, largest, processes = time.perf_counter(), {"pss": 0, "rss": 0}, 1
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(checkout)}, cwd=checkout) as run:
        while run.poll() is None:
            found = memory(run.pid)
            processes = max(processes, len(found))
            largest = {name: max(most, sum(one[name] for one in found)) for name, most in largest.items()}
            time.sleep(SECONDS_BETWEEN)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {run.returncode}")
    seconds = time.perf_counter() - start
    written = [path.stat().st_size for path in to.rglob("*") if path.is_file()]
    shutil.rmtree(to)
    return {
        "seconds": round(seconds, 1),
        **{f"{name}_mb": round(most / 1e6) for name, most in largest.items()},
        "processes": processes,
        "files": len(written),
        "written_mb": round(sum(written) / 1e6),
    }


def memory(pid: int) -> list[dict[str, int]]:
    """PSS and RSS, bytes, of a process and all its children."""
    found = []
    try:
        parent = psutil.Process(pid)
        every = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in every:
        try:
            known = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found.append({"pss": known.pss, "rss": known.rss})
    return found


def show(found: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"report of {IMAGES_MADE:,} images", title_justify="left")
    for column in ("report", "pages", "s", "PSS, MB", "RSS, MB", "processes"):
        table.add_column(column, justify="left" if column == "report" else "right")
    for name, by_pages in found.items():
        for pages, line in by_pages.items():
            cells = [line[key] for key in ("seconds", "pss_mb", "rss_mb", "processes")]
            table.add_row(name, pages, *map(str, cells))
    Console(width=100).print(table)


def main() -> None:
    checkouts = {"this one": HERE} | ({"earlier": Path(sys.argv[1]).resolve()} if len(sys.argv) > 1 else {})
    root = Path(tempfile.mkdtemp(prefix="bench_report_"))
    try:
        url = write_export(root)
        found = {
            name: {str(pages): measure(place, url, pages, root / "report") for pages in PAGES}
            for name, place in checkouts.items()
        }
    finally:
        shutil.rmtree(root)
    show(found)
    record = {"images": IMAGES_MADE, "cores": len(os.sched_getaffinity(0)), "reports": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
