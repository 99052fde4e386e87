"""What does it cost that the C library gives freed memory back to the system?

python -m benchmarks.bench_allocator    prints a table, writes benchmarks/bench_allocator.json

A plain forward pass and an explanation (Grad-CAM, Finer-Grad-CAM), one thread, on random images. A process keeps either
setting to its end, so each round is two processes, in turns: processor time an image, the median of its batches, pages
that the system gave, and the process's peak memory. Shown are medians of the rounds, and the range of their ratios.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bench_birds import machine
from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier
from finer_ray.models.allocator import keep_freed_memory
from finer_ray.saliency import MapSpec, SaliencySpec, explain

MODELS = ("timm:efficientnet_lite0", "timm:resnet50", "timm:vit_small_patch16_224")
BATCHES = (8, 32)
ROUNDS, IMAGES, LEAST = 3, 32, 3
MAPS = SaliencySpec((MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=0.6)))
SETTINGS = ("given back", "kept")
MEASURES = ("forward", "explain", "pages", "peak")


def alone(backbone: str, batch: int, setting: str) -> dict[str, float]:
    """In this process: seconds of processor time and pages an image, peak memory in bytes."""
    torch.set_num_threads(1)
    model = build_classifier(ModelConfig(backbone=backbone, weights="random")).eval()
    if setting == "kept" and not keep_freed_memory():
        raise SystemExit("the C library is not glibc")
    images = torch.randn((batch, 3, *model.transform.size))
    with torch.inference_mode():
        forward, pages = _measured(lambda: model.split.trunk(images), batch)
    explained, _ = _measured(lambda: explain(model, images, MAPS), batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return dict(zip(MEASURES, (forward, explained, pages, peak), strict=True))


def _measured(run: Callable[[], object], batch: int) -> tuple[float, float]:
    """Median seconds and mean pages an image, after two batches that are not counted."""
    for _ in range(2):
        run()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(max(LEAST, IMAGES // batch)):
        start = time.process_time()
        run()
        seconds.append((time.process_time() - start) / batch)
    given = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return statistics.median(seconds), given / (len(seconds) * batch)


def paired(backbone: str, batch: int) -> dict[str, Any]:
    """Both settings in turns, each in processes of its own."""
    rounds = [{setting: _process(backbone, batch, setting) for setting in SETTINGS} for _ in range(ROUNDS)]
    report: dict[str, Any] = {
        setting: {name: statistics.median(taken[setting][name] for taken in rounds) for name in MEASURES}
        for setting in SETTINGS
    }
    for name in ("forward", "explain", "peak"):
        ratios = sorted(taken["kept"][name] / taken["given back"][name] for taken in rounds)
        report[f"{name} ratio"] = [round(ratio, 3) for ratio in ratios]
    return report


def _process(backbone: str, batch: int, setting: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_allocator", backbone, str(batch), setting]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    if len(sys.argv) > 1:
        backbone, images, setting = sys.argv[1:]
        print(json.dumps(alone(backbone, int(images), setting)))
        return
    report = machine() | {model: {str(batch): paired(model, batch) for batch in BATCHES} for model in MODELS}
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    table = Table("model", "batch", "forward, ms", "explain, ms", "pages", "peak, MB")
    for model in MODELS:
        for batch in BATCHES:
            cells = report[model][str(batch)]
            table.add_row(model, str(batch), *(_both(cells, name) for name in MEASURES))
    Console(width=120).print(table)


def _both(cells: dict[str, Any], name: str) -> str:
    unit = {"forward": 1e3, "explain": 1e3, "peak": 1e-6}.get(name, 1.0)
    values = (cells[setting][name] * unit for setting in SETTINGS)
    text = " to ".join(f"{value:.0f}" for value in values)
    return text + (f" (x {cells[f'{name} ratio'][ROUNDS // 2]:.2f})" if f"{name} ratio" in cells else "")


if __name__ == "__main__":
    main()
