"""What does each CAM method cost, as multiples of a plain forward pass?

A method's cost is that of an explanation with its baseline and its finer map less that of an explanation with Grad-CAM
and Finer-Grad-CAM, of the same batch. All take turns in one process; figures are medians of processor time, with the
range of the ratios within rounds. RISE and Mask take as long as their settings say: they are given few masks and steps,
and their cost is multiplied up to the defaults.
"""

import json
import platform
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.timed import in_turns
from finer_ray.config.schema import ModelConfig
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.preparing import prepare
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.method import Method
from finer_ray.saliency.methods import METHODS

MODELS: dict[str, dict[str, Any]] = {
    "ViT-S/16 of CLIP": {"backbone": "open_clip:ViT-S-16", "head": "text", "classes": ["cat", "dog", "bird", "fish"]},
    "EfficientNet-Lite0": {"backbone": "timm:tf_efficientnet_lite0"},
}
BATCH, ROUNDS, GAMMA = 4, 9, 0.6
# Methods whose work one setting counts.
COUNTED = {"rise": ("masks", 20), "mask": ("steps", 2)}
# What takes hundreds of passes is timed on one image, once.
LONG = ("scorecam", "rise", "mask")


def spec_of(method: Method) -> SaliencySpec:
    """A method's two maps, with few masks or steps where it counts them."""
    maps = (MapSpec("baseline", method.name), MapSpec("finer", method.name, GAMMA))
    if method.name not in COUNTED or method.settings is None:
        return SaliencySpec(maps)
    name, few = COUNTED[method.name]
    return SaliencySpec(maps, settings={method.name: method.settings.model_copy(update={name: few})})


def measure(options: dict[str, Any]) -> dict[str, Any]:
    """Cost of each method of a model, in forward passes."""
    classifier = prepare(build_classifier(ModelConfig(weights="random", **options)), torch.device("cpu"), "fp32")
    images = torch.randn((BATCH, 3, *classifier.transform.size))
    names = [name for name, method in METHODS.items() if method.refusal(classifier, False) is None]
    short, long = ([name for name in names if (name in LONG) is is_long] for is_long in (False, True))
    return _costs(classifier, images, short, ROUNDS) | _costs(classifier, images[:1], long, 1)


def _costs(classifier: Classifier, images: torch.Tensor, names: list[str], rounds: int) -> dict[str, list[float]]:
    runs = {
        name: partial(explain, classifier, images, spec_of(METHODS[name]))
        for name in dict.fromkeys(["gradcam", *names])
    }

    @torch.no_grad()
    def forward() -> None:
        classifier(images)

    times = in_turns({"forward": forward, **runs}, rounds, clock=time.process_time)
    found = {}
    for name in names:
        beside = [0.0] * rounds if name == "gradcam" else times["gradcam"]
        each = [
            _factor(METHODS[name]) * (own - base) / plain
            for own, base, plain in zip(times[name], beside, times["forward"], strict=True)
        ]
        found[name] = [statistics.median(each), min(each), max(each)]
    return found


def _factor(method: Method) -> float:
    """What the defaults are of the few."""
    if method.name not in COUNTED or method.settings is None:
        return 1.0
    name, few = COUNTED[method.name]
    return float(getattr(method.settings, name)) / few


def show(record: dict[str, Any]) -> None:
    table = Table(title="Cost of a method's two maps beyond Grad-CAM's, in forward passes: median (range)")
    for column in ("method", *record["results"]):
        table.add_column(column)
    for name in METHODS:
        cells = [result.get(name) for result in record["results"].values()]
        table.add_row(name, *("-" if cell is None else "{:.3g} ({:.3g}-{:.3g})".format(*cell) for cell in cells))
    Console(width=140).print(table)
    print("gradcam: the whole explanation, its forward pass included")


def main() -> None:
    record = {
        "batch": BATCH,
        "rounds": ROUNDS,
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "results": {name: measure(options) for name, options in track(MODELS.items(), "timing")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    show(record)


if __name__ == "__main__":
    main()
