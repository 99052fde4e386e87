"""What does an explanation cost, beside a plain forward pass and beside pytorch-grad-cam?

Embedding, logits, Grad-CAM, Finer-Grad-CAM (3 references) and the contrast basis, against (1) the library's own
forward pass under no_grad, and (2) pytorch-grad-cam's GradCAM and then FinerCAM on the same batch. The three take
turns in one process; figures are medians over rounds, with the range of the ratios.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_grad_cam import FinerCAM, GradCAM
from rich.console import Console
from rich.table import Table

from finer_ray.config import ModelConfig
from finer_ray.models import Classifier, build_classifier
from finer_ray.saliency import Question, explain

MODELS = {
    "ViT-B/16, class token": {"backbone": "timm:vit_base_patch16_224"},
    "EfficientNet-Lite0": {"backbone": "timm:efficientnet_lite0"},
}
BATCH = 8
ROUNDS = 5


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def plain(model: Classifier, images: torch.Tensor) -> Callable[[], Any]:
    def run() -> None:
        with torch.no_grad():
            model.split(images)

    return run


def theirs(model: Classifier, images: torch.Tensor) -> Callable[[], Any]:
    encoder = model.split.encoder
    tokens = hasattr(encoder, "blocks") and hasattr(encoder, "cls_token")
    layer = encoder.blocks[-1].norm1 if tokens else encoder.bn2
    reshape = model.grid if tokens else None

    def run() -> None:
        encoder.requires_grad_(True)
        with GradCAM(encoder, [layer], reshape) as base:
            base(images, targets=None)
        with FinerCAM(encoder, [layer], reshape) as finer:
            finer(images, targets=None, alpha=0.6, comparison_categories=[1, 2, 3])
        encoder.requires_grad_(False)

    return run


def measure(options: dict[str, Any]) -> dict[str, Any]:
    model = build_classifier(ModelConfig(weights="random", **options))
    images = torch.randn((BATCH, 3, *model.transform.size))
    runs = {
        "forward": plain(model, images),
        "explain": lambda: explain(model, images, Question()),
        "pytorch_grad_cam": theirs(model, images),
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            times[name].append(seconds(run))
    over = [a / b for a, b in zip(times["explain"], times["forward"], strict=True)]
    speedup = [a / b for a, b in zip(times["pytorch_grad_cam"], times["explain"], strict=True)]
    return {
        "milliseconds_per_image": {name: 1000 * statistics.median(t) / BATCH for name, t in times.items()},
        "explain_over_forward": [statistics.median(over), min(over), max(over)],
        "pytorch_grad_cam_over_explain": [statistics.median(speedup), min(speedup), max(speedup)],
    }


def main() -> None:
    results = {name: measure(options) for name, options in MODELS.items()}
    table = Table(title=f"One explanation, batch {BATCH}, fp32, {torch.get_num_threads()} threads: median (range)")
    for column in ("model", "forward, ms/image", "explanation / forward", "pytorch-grad-cam / explanation"):
        table.add_column(column)
    for name, result in results.items():
        ratios = [result["explain_over_forward"], result["pytorch_grad_cam_over_explain"]]
        cells = [f"{m:.2f} ({low:.2f}-{high:.2f})" for m, low, high in ratios]
        table.add_row(name, f"{result['milliseconds_per_image']['forward']:.0f}", *cells)
    Console(width=120).print(table)
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    record = {"batch": BATCH, "rounds": ROUNDS, "machine": machine, "results": results}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
