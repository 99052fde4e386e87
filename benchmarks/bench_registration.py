"""Does the light lie on the object? Energy and pointing by padding and registration, on photos with masks.

python -m benchmarks.bench_registration SHARDS    prints tables, writes benchmarks/bench_registration.json

SHARDS are WebDataset tars of photos and masks, as a glob. The weights are the demo's, which were trained with SAME
padding: as timm's `tf_efficientnet_lite0`, which has it, and as `efficientnet_lite0`, which pads both sides alike.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.demo.run_demo import demo_config
from finer_ray.metrics.statistics import mean_of
from finer_ray.models import build_classifier
from finer_ray.models.registering import centre
from finer_ray.pipeline.export import export
from finer_ray.report.photos import read_photos
from finer_ray.store.reading import Export, open_export

MODELS = ("efficientnet_lite0", "tf_efficientnet_lite0")
WAYS = ("stretch", "measured")
MAPS = ["gradcam", "finer_gradcam", "layercam", "finer_layercam"]
METRICS = ("localisation", "pointing_hit")
# Every n-th photo is looked at for centres, with one of the cells in the middle each.
EVERY, MIDDLE = 2, [(y, x) for y in (2, 3, 4) for x in (2, 3, 4)]


def job(shards: str, model: str, way: str, out: Path) -> Config:
    """The demo's job on other photos, with other padding, registered in some way."""
    tree: dict[str, Any] = demo_config(out).model_dump()
    tree["input"]["shards"] = shards
    tree["model"]["backbone"] = f"timm:{model}"
    tree["saliency"] |= {"maps": MAPS, "registration": way}
    tree["metrics"] = {"localisation": True}
    tree["compute"] = {"executor": "inline"}
    return parse_config(tree)


def scores(made: Export) -> dict[str, dict[str, float]]:
    """By map: the mean of each metric, and its standard error."""
    found: dict[str, dict[str, float]] = {}
    for name in MAPS:
        mine = made.metrics.filter(np.array(made.metrics["map"]) == name)
        found[name] = {}
        for metric in METRICS:
            values = np.array(mine[metric].to_pylist(), dtype=float)
            mean = mean_of(values[:, None])
            found[name] |= {metric: round(float(mean.mean[0]), 4), f"{metric}_stderr": round(float(mean.stderr[0]), 4)}
            found[name]["count"] = int(mean.count[0])
    return found


def photo_centres(config: Config, made: Export) -> dict[str, list[float]]:
    """Offsets as real photos give them, (y, x), and their standard errors; to hold the measured ones against."""
    classifier = build_classifier(config.model)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (classifier.transform.mean, classifier.transform.std))
    generator, offsets = torch.Generator().manual_seed(1), list[Tensor]()
    rows = made.images["row"].to_pylist()[::EVERY]
    for place, photo in enumerate(read_photos(made, rows)):
        image = (torch.from_numpy(photo.copy()).permute(2, 0, 1) / 255 - mean) / std
        cell = torch.tensor(MIDDLE[place % len(MIDDLE)])
        offsets.append(centre(classifier.split, image[None], cell, generator) - 32 * cell)
    found = torch.stack(offsets)
    found = found[found.isfinite().all(1)]
    error = found.std(0) / len(found) ** 0.5
    return {"offset": found.mean(0).round(decimals=2).tolist(), "stderr": error.round(decimals=2).tolist()}


def measure(shards: str, root: Path) -> dict[str, Any]:
    """All cells of the table, and the centres."""
    record: dict[str, Any] = {"images": 0, "scores": {}, "centres": {}}
    for model in MODELS:
        for way in WAYS:
            config = job(shards, model, way, root / model / way)
            export(config)
            made = open_export(config.output.url)
            record["images"] = made.manifest.counts["images"]
            record["scores"][f"{model}, {way}"] = scores(made)
            labels = made.images.filter(made.images["label"].is_valid())
            right = np.array(labels["label"]) == np.array(labels["predicted"])
            record.setdefault("top-1", {})[model] = {"labelled": len(right), "share": round(float(right.mean()), 4)}
        here = made.manifest.layout.registration
        assert here is not None
        classifier = build_classifier(config.model)
        start = time.perf_counter()
        classifier.measured_registration()
        record["centres"][model] = {
            "measured": here.offset,
            "seconds": round(time.perf_counter() - start, 2),
            "photos": photo_centres(config, made),
        }
    return record


def show(record: dict[str, Any]) -> None:
    table = Table(title=f"{record['images']} photos: energy on the object, pointing", title_justify="left")
    table.add_column("model, registration")
    for name in MAPS:
        table.add_column(name, justify="right")
    for cell, found in record["scores"].items():
        table.add_row(cell, *(" ".join(f"{found[name][metric]:.3f}" for metric in METRICS) for name in MAPS))
    console = Console(width=140)
    console.print(table)
    console.print(record["centres"], record["top-1"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = measure(sys.argv[1], Path(folder))
    show(record)
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
