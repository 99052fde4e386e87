"""What does it cost to explain several targets of an image (`saliency.target: {top: T}`), beside a plain forward pass?

As in bench_engine: embedding, logits, Grad-CAM, Finer-Grad-CAM (3 references) and the contrast basis, of every target;
runs take turns on one thread, in CPU seconds, so that work beside it counts little; ratios are taken within rounds.
Beside it how many classes go through the tail, at most, of the T * (1 + 3) that are targets and references.
"""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bench_engine import PLAIN, spread
from benchmarks.timed import in_turns
from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier
from finer_ray.saliency import SaliencySpec, explain
from finer_ray.saliency.explanation import distinct

MODELS: dict[str, dict[str, Any]] = {
    "ViT-B/16, class token": {"backbone": "timm:vit_base_patch16_224"},
    "ViT-S/16, mean": {"backbone": "timm:vit_small_patch16_224", "pool": "avg"},
    "ResNet-50": {"backbone": "timm:resnet50"},
    "EfficientNet-Lite0": {"backbone": "timm:tf_efficientnet_lite0"},
}
TARGETS = (1, 3, 5)
BATCH, ROUNDS = 4, 9


def measure(options: dict[str, Any]) -> dict[str, Any]:
    model = build_classifier(ModelConfig(weights="random", **options))
    images = torch.randn((BATCH, 3, *model.transform.size))
    specs = {str(count): SaliencySpec(PLAIN.maps, targets=count) for count in TARGETS}
    runs = {name: (lambda spec=spec: explain(model, images, spec)) for name, spec in specs.items()}
    times = in_turns({"forward": lambda: model(images), **runs}, ROUNDS, time.process_time)
    found = explain(model, images, specs[str(TARGETS[-1])])
    classes = torch.cat([found.target[..., None], found.references], dim=-1)
    return {
        "forward_milliseconds_per_image": 1000 * statistics.median(times["forward"]) / BATCH,
        "over_forward": {name: spread(times[name], times["forward"]) for name in specs},
        "classes": {name: distinct(classes[:, : int(name)].flatten(1))[0].shape[1] for name in specs},
    }


def main() -> None:
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "batch": BATCH,
        "rounds": ROUNDS,
        "machine": {"processor": platform.machine(), "threads": 1, "torch": torch.__version__},
        "results": {name: measure(options) for name, options in track(MODELS.items(), "timing")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    table = Table(title="Explanation over a plain forward pass: median (range); classes through the tail")
    for column in ("model", *(f"{count} targets" for count in TARGETS)):
        table.add_column(column)
    for name, result in record["results"].items():
        cells = [f"{m:.2f} ({low:.2f}-{high:.2f})" for m, low, high in result["over_forward"].values()]
        table.add_row(name, *(f"{cell}; {n}" for cell, n in zip(cells, result["classes"].values(), strict=True)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
