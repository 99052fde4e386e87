"""What does an explanation cost, beside a plain forward pass and beside the other libraries?

`explain` is embedding, logits, Grad-CAM, Finer-Grad-CAM (3 references) and the contrast basis. The official script
runs three modes on every image: gamma 0, 3 references, 1 reference; pytorch-grad-cam's FinerCAM and torch-cam's
are timed on all three, ours draws them from one basis. All take turns in one process; figures are medians over
rounds, with the range of the ratios taken within rounds. Peak memory is that of a process of its own, above what it
held before the call. Operations are counted, not timed.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_grad_cam
import torch
import torchcam.methods as torchcam
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.operations import Operations
from benchmarks.timed import in_turns
from finer_ray.config.schema import ModelConfig
from finer_ray.models import Classifier, build_classifier
from finer_ray.saliency import MapSpec, SaliencySpec, contrast, explain

MODELS: dict[str, dict[str, Any]] = {
    "ViT-B/16, class token": {"backbone": "timm:vit_base_patch16_224"},
    "DINOv2 ViT-B/14, mean": {"backbone": "timm:vit_base_patch14_dinov2", "image_size": 224, "pool": "avg"},
    "EfficientNet-Lite0": {"backbone": "timm:efficientnet_lite0"},
}
ROUNDS = {1: 9, 8: 5, 32: 3}
MEMORY_BATCH = 32
GAMMA = 0.6
PLAIN = SaliencySpec((MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=GAMMA)))
LAYERS = SaliencySpec((*PLAIN.maps, MapSpec("layercam", "layercam"), MapSpec("finer_layercam", "layercam", GAMMA)))
SCORES = SaliencySpec((MapSpec("scorecam", "scorecam"), MapSpec("finer_scorecam", "scorecam", GAMMA)))
SCORECAM = {"ViT-Ti/16, class token": ("timm:vit_tiny_patch16_224", 2, 3), "ResNet-18": ("timm:resnet18", 2, 3)}

Run = Callable[[], Any]


class Whole(nn.Module):
    """Encoder and head as one module, with all its weights open to gradients, as the libraries take it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.split.encoder, model.head
        self.native = self.encoder.num_classes > 0
        self.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        output = self.encoder(images)
        logits: Tensor = output if self.native else self.head(output)
        return logits


def load(options: dict[str, Any]) -> Classifier:
    with tempfile.TemporaryDirectory() as folder:
        if options.get("pool") == "avg":
            options = {**options, "head": f"{folder}/probe.safetensors"}
            save_file({"weight": torch.randn((1000, 768)) / 28}, options["head"])
        return build_classifier(ModelConfig(weights="random", **options))


def cam_layer(model: Classifier) -> tuple[nn.Module, Callable[[Tensor], Tensor] | None]:
    encoder = model.split.encoder
    grid = partial(model.split.grid, size=model.transform.size)
    return (encoder.blocks[-1].norm1, grid) if hasattr(encoder, "cls_token") else (encoder.bn2, None)


def runs_of(model: Classifier, images: Tensor) -> dict[str, Run]:
    """What is compared, by name."""
    whole, (layer, grid) = Whole(model), cam_layer(model)

    @torch.no_grad()
    def forward() -> Tensor:
        return whole(images)

    def three_modes() -> list[Tensor]:
        found = explain(model, images, PLAIN)
        one = contrast(found.basis[:, :2], GAMMA)
        return [*found.maps.unbind(1), one]

    def pytorch_grad_cam_three_modes() -> None:
        for gamma, references in ((0.0, [1, 2, 3]), (GAMMA, [1, 2, 3]), (GAMMA, [1])):
            with pytorch_grad_cam.FinerCAM(whole, [layer], grid) as cam:
                cam(images, targets=None, alpha=gamma, comparison_categories=references)

    def torch_cam_one(gamma: float, references: int) -> None:
        with torchcam.FinerCAM(whole, layer, gamma=gamma, num_references=references, reshape_transform=grid) as cam:
            scores = whole(images)
            cam(scores.argmax(1).tolist(), scores)

    def torch_cam_three_modes() -> None:
        for gamma, references in ((0.0, 3), (GAMMA, 3), (GAMMA, 1)):
            torch_cam_one(gamma, references)

    def torch_cam_shared() -> None:
        """One forward pass for the three modes, which its documentation does not show but allows."""
        with torchcam.FinerCAM(whole, layer, gamma=GAMMA, reshape_transform=grid) as cam:
            scores = whole(images)
            target = scores.argmax(1).tolist()
            nearest = cam._reference_indices(None, scores, target, torch.tensor(target)[:, None]).tolist()
            for gamma, references in ((0.0, nearest), (GAMMA, nearest), (GAMMA, [[row[0]] for row in nearest])):
                cam.gamma = gamma
                cam(target, scores, references, retain_graph=True)

    return {
        "forward": forward,
        "explain": lambda: explain(model, images, PLAIN),
        "explain_three_modes": three_modes,
        "explain_layercam": lambda: explain(model, images, LAYERS),
        "pytorch_grad_cam": pytorch_grad_cam_three_modes,
        "torch_cam": torch_cam_three_modes,
        "torch_cam_shared_forward": torch_cam_shared,
    }


RATIOS = {
    "explain / forward": ("explain", "forward"),
    "with layercam / forward": ("explain_layercam", "forward"),
    "pytorch-grad-cam / explain": ("pytorch_grad_cam", "explain_three_modes"),
    "torch-cam / explain": ("torch_cam", "explain_three_modes"),
    "torch-cam, forward shared / explain": ("torch_cam_shared_forward", "explain_three_modes"),
}


def spread(above: list[float], below: list[float]) -> list[float]:
    """Median and range of the ratios within rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def operations(options: dict[str, Any]) -> dict[str, float]:
    """Operations per image, in units of 1e9."""
    model = load(options)
    runs, found = runs_of(model, torch.randn((1, 3, *model.transform.size))), {}
    for name in ("forward", "explain", "explain_layercam"):
        with Operations() as counter:
            runs[name]()
        found[name] = counter.count / 1e9
    return found


def measure(options: dict[str, Any], batch: int) -> dict[str, Any]:
    model = load(options)
    images = torch.randn((batch, 3, *model.transform.size))
    runs = runs_of(model, images)
    times = in_turns(runs, ROUNDS[batch])
    return {
        "milliseconds_per_image": {name: 1000 * statistics.median(t) / batch for name, t in times.items()},
        "ratios": {name: spread(times[a], times[b]) for name, (a, b) in RATIOS.items()},
    }


def memory_of(name: str, run: str) -> None:
    """In a process of its own: print the peak of resident memory above what was held before, in MiB."""
    model = load(MODELS[name])
    runs_of(model, torch.randn((1, 3, *model.transform.size)))["forward"]()
    call = runs_of(model, torch.randn((MEMORY_BATCH, 3, *model.transform.size)))[run]
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    call()
    print((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def peak_memory(name: str) -> dict[str, float]:
    names = ("forward", "explain", "explain_layercam", "pytorch_grad_cam", "torch_cam")
    command = [sys.executable, "-m", "benchmarks.bench_engine", "--memory", name]
    return {run: float(subprocess.check_output([*command, run], text=True).split()[-1]) for run in names}


def measure_scorecam(backbone: str, batch: int, rounds: int) -> dict[str, Any]:
    """Score-CAM and its finer variant: ours together, pytorch-grad-cam's one after the other."""
    model = load({"backbone": backbone})
    images = torch.randn((batch, 3, *model.transform.size))
    encoder = model.split.encoder
    tokens = hasattr(encoder, "cls_token")
    layer, grid = (
        (encoder.blocks[-1].norm1, partial(model.split.grid, size=model.transform.size))
        if tokens
        else (encoder.layer4, None)
    )

    def theirs() -> None:
        with pytorch_grad_cam.ScoreCAM(encoder, [layer], grid) as cam:
            cam(images, targets=None)
        with pytorch_grad_cam.FinerCAM(encoder, [layer], grid, base_method=pytorch_grad_cam.ScoreCAM) as finer:
            finer(images, targets=None, alpha=GAMMA, comparison_categories=[1, 2, 3])

    times = in_turns({"explain": lambda: explain(model, images, SCORES), "pytorch_grad_cam": theirs}, rounds)
    return {
        "milliseconds_per_image": {name: 1000 * statistics.median(t) / batch for name, t in times.items()},
        "pytorch-grad-cam / explain": spread(times["pytorch_grad_cam"], times["explain"]),
    }


def show(record: dict[str, Any]) -> None:
    console = Console(width=140)
    table = Table(title=f"One explanation, fp32, {record['machine']['threads']} threads: median (range)")
    for column in ("model", "batch", "forward, ms/image", *RATIOS):
        table.add_column(column)
    for name, batches in record["results"].items():
        for batch, result in batches.items():
            cells = [f"{m:.2f} ({low:.2f}-{high:.2f})" for m, low, high in result["ratios"].values()]
            table.add_row(name, batch, f"{result['milliseconds_per_image']['forward']:.0f}", *cells)
    console.print(table)
    table = Table(title=f"Peak memory at batch {MEMORY_BATCH}, MiB above the model's; operations per image, 1e9")
    for column in ("model", *next(iter(record["peak_mib"].values())), "op forward", "op explain", "op with layercam"):
        table.add_column(column)
    for name, peaks in record["peak_mib"].items():
        counts = record["giga_operations_per_image"][name].values()
        table.add_row(name, *(f"{peak:.0f}" for peak in peaks.values()), *(f"{count:.2f}" for count in counts))
    console.print(table)
    table = Table(title="Score-CAM and finer Score-CAM: pytorch-grad-cam / explain")
    for column in ("model", "explain, ms/image", "ratio"):
        table.add_column(column)
    for name, result in record["scorecam"].items():
        median, low, high = result["pytorch-grad-cam / explain"]
        cost = result["milliseconds_per_image"]["explain"]
        table.add_row(name, f"{cost:.0f}", f"{median:.2f} ({low:.2f}-{high:.2f})")
    console.print(table)


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        memory_of(*sys.argv[2:4])
        return
    plan = [(name, batch) for name in MODELS for batch in ROUNDS]
    results: dict[str, dict[str, Any]] = {name: {} for name in MODELS}
    for name, batch in track(plan, "timing"):
        results[name][str(batch)] = measure(MODELS[name], batch)
    record = {
        "rounds": ROUNDS,
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "results": results,
        "giga_operations_per_image": {name: operations(options) for name, options in MODELS.items()},
        "peak_mib": {name: peak_memory(name) for name in track(list(MODELS), "memory")},
        "scorecam": {name: measure_scorecam(*options) for name, options in track(SCORECAM.items(), "Score-CAM")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    show(record)


if __name__ == "__main__":
    main()
