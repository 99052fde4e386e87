"""Hardware limits, measured: arithmetic, memory, the bus, decoding and writing."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_sections.clock import rates, spread
from benchmarks.gpu_sections.job import job_config
from benchmarks.gpu_sections.photos import write_shards
from benchmarks.gpu_sections.setting import VIT, Record, Setting
from finer_ray.models import build_classifier
from finer_ray.pipeline.explaining import Explainer
from finer_ray.pipeline.planning import layout_of
from finer_ray.pipeline.resources import cpu_count, own_resources
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.pipeline.writing import write
from finer_ray.store.manifest import Unit
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import create_tensors

ROOT = Path(__file__).parents[2]
WRITES = 6


def hardware(setting: Setting, record: Record, found: Record) -> None:
    """What the parts of the machine can do, each alone."""
    found["bf16 matmul, operations/s"] = _matmuls(setting)
    found["memory, bytes/s (read and written)"] = _memory(setting)
    found["host to device, bytes/s"] = _bus(setting)
    found["loading, images/s"] = _loading(setting)
    found["writing, images/s of one process"] = _writing(setting)


def _matmuls(setting: Setting) -> Record:
    """A large square, and the shapes of the models' own layers at the largest batch; on random numbers, because
    zeros take less power."""
    found: Record = {}
    side = setting.square
    shapes = {f"{side} x {side} x {side}": (side, side, side)}
    for name, options in setting.models.items():
        encoder = setting.load(options).split.encoder
        rows = max(setting.batches) * encoder.pos_embed.shape[1]
        for layer in ("qkv", "proj", "fc1", "fc2"):
            linear = getattr(encoder.blocks[0].attn if layer in ("qkv", "proj") else encoder.blocks[0].mlp, layer)
            shapes[f"{name}, {layer}"] = (rows, linear.in_features, linear.out_features)
    for name, (rows, inner, columns) in shapes.items():
        left = torch.randn((rows, inner), device=setting.device, dtype=torch.bfloat16)
        right = torch.randn((inner, columns), device=setting.device, dtype=torch.bfloat16)
        run: Any = {"matmul": lambda left=left, right=right: left @ right}
        found[name] = rates(setting, run, 2 * rows * inner * columns)["matmul"]
    return found


def _memory(setting: Setting) -> Record:
    source = torch.randint(0, 256, (setting.buffer,), dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return rates(setting, {"copy": lambda: target.copy_(source)}, 2 * setting.buffer)["copy"]


def _bus(setting: Setting) -> Record | None:
    """Pinned and pageable memory to the device, pinned memory from it; None where host and device are one."""
    if not setting.cuda:
        return None
    host = torch.randint(0, 256, (setting.buffer // 4,), dtype=torch.uint8)
    pinned, target = host.pin_memory(), torch.empty_like(host, device=setting.device)
    runs: Any = {
        "pinned": lambda: target.copy_(pinned, non_blocking=True),
        "pageable": lambda: target.copy_(host),
        "back, pinned": lambda: pinned.copy_(target, non_blocking=True),
    }
    return rates(setting, runs, host.numel())


def _loading(setting: Setting) -> Record:
    """The job's loading stage (tar, decode, resize) on one process, and on one per core."""
    shard = write_shards(setting)[0]
    transform = setting.load(setting.models[VIT]).transform
    cores = cpu_count()
    images = min(setting.unit, setting.shard_images)
    found: Record = {}
    for name, processes in (("one core", 1), ("all cores", cores)):
        arguments = map(str, (shard, images, transform.size[0], transform.crop_pct, processes, 4))
        command = [sys.executable, "-m", "benchmarks.gpu_sections.decoding", *arguments]
        found[name] = float(subprocess.check_output(command, text=True, cwd=ROOT))
    return found


def _writing(setting: Setting) -> Record:
    """A unit to Zarr and Parquet, over and over."""
    config = job_config(setting, write_shards(setting)[:1], "writing", {"executor": "inline"})
    classifier = build_classifier(config.model)
    layout = layout_of(config, classifier)
    loader = Loader(config.input, classifier.transform, True, 0.0)
    unit = Unit(0, config.input.shards[0], "webdataset", 0, 0, setting.unit)
    table = Explainer(classifier, config, layout, own_resources(config.compute))(loader(unit))
    create_tensors(Folder(config.output.url, 0.0), layout, layout.rows_per_unit)
    times = []
    for _ in range(WRITES):
        start = time.perf_counter()
        write(config.output.url, layout, 0.0, table)
        times.append(time.perf_counter() - start)
    return spread([setting.unit / seconds for seconds in times[1:]])
