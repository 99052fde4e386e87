"""What does `input.decoder: device` change, and what does it take off the loading tasks?

The device is a CPU here, where torchvision decodes by libjpeg-turbo: the way that photos go is that of CUDA, nvJPEG is
not. Explained by the demo's model; `python -m benchmarks.bench_decoding [SHARDS]`, by default of the demo's photos.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from finer_ray.config import Config
from finer_ray.demo.tour import demo_config
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.shards import (
    Deferred,
    Fields,
    Sample,
    ShardRef,
    Transform,
    decode,
    defer,
    find_shards,
    index_shard,
    read_unit,
)
from finer_ray.shards.device_jpeg import decode_batch
from finer_ray.store.export import Export, open_export

ROUNDS, BATCH = 5, 32
LIMIT = 10**8


def job(out: Path, shards: list[str], decoder: str) -> Config:
    config = demo_config(out)
    given = {"shards": shards} if shards else {}
    return config.model_copy(
        update={
            "input": config.input.model_copy(update={"decoder": decoder, **given}),
            "metrics": config.metrics.model_copy(update={"deletion": False, "drops": False}),
            "compute": config.compute.model_copy(update={"runner": "inline"}),
        }
    )


def samples_of(config: Config) -> list[Sample]:
    fields = Fields.defaults("webdataset")
    refs: list[ShardRef] = find_shards(config.input.shards, config.input.format)
    counts = [index_shard(ref, fields, 10**6).count for ref in refs]
    return [sample for ref, n in zip(refs, counts, strict=True) for sample in read_unit(ref, fields, 0, n, LIMIT)]


def seconds(work: Callable[[], Any]) -> float:
    """The fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def pixels(samples: list[Sample], transform: Transform) -> dict[str, Any]:
    """How far the pixels are apart, in levels, and milliseconds a photo and thread, without regions."""

    def on_cpu(sample: Sample) -> np.ndarray:
        return decode(sample, transform, LIMIT, region=False).image

    def deferred(sample: Sample) -> Deferred | None:
        return defer(sample, transform, LIMIT, region=False)

    found = [deferred(sample) for sample in samples]
    left = [one for one in found if one is not None]
    sizes = [(one.width, one.height) for one in left]

    def on_device() -> np.ndarray:
        batches = range(0, len(left), BATCH)
        parts = [
            decode_batch(
                [one.encoded for one in left[i : i + BATCH]], sizes[i : i + BATCH], transform, torch.device("cpu")
            )
            for i in batches
        ]
        assert not any(failed for _, failed in parts)
        result: np.ndarray = torch.cat([batch for batch, _ in parts]).permute(0, 2, 3, 1).numpy()
        return result

    cpu = np.stack([on_cpu(sample) for sample, one in zip(samples, found, strict=True) if one])
    off = np.abs(on_device().astype(int) - cpu)
    count = len(samples)
    return {
        "photos": count,
        "left to the device": len(left),
        "levels, largest difference": int(off.max()),
        "levels, mean difference": float(off.mean()),
        "values that differ": float((off > 0).mean()),
        "bytes a photo, encoded": sum(len(one.encoded) for one in left) / len(left),
        "bytes a photo, as pixels": 3 * transform.size[0] * transform.size[1],
        "ms a photo, loading task, cpu": 1e3 / count * seconds(lambda: [on_cpu(one) for one in samples]),
        "ms a photo, loading task, device": 1e3 / count * seconds(lambda: [deferred(one) for one in samples]),
        "ms a photo, actor, device": 1e3 / len(left) * seconds(on_device),
    }


def exports(cpu: Export, device: Export) -> dict[str, Any]:
    """How far two exports of the same rows are apart."""
    rows = cpu.images["row"].to_pylist()
    assert rows == device.images["row"].to_pylist()
    apart = {}
    predicted = [np.asarray(made.images["predicted"]) for made in (cpu, device)]
    apart["top-1 that differ"] = float((predicted[0] != predicted[1]).mean())
    same = [row for row, equal in zip(rows, predicted[0] == predicted[1], strict=True) if equal]
    for name in cpu.manifest.layout.maps:
        a, b = cpu.maps(same, name), device.maps(same, name)
        scale = np.maximum(a.max((1, 2)), 1e-12)
        apart[f"{name}, largest difference of its maximum"] = float((np.abs(a - b).max((1, 2)) / scale).max())
    return apart


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {decoder: job(Path(folder) / decoder, sys.argv[1:], decoder) for decoder in ("cpu", "device")}
        found = pixels(samples_of(jobs["cpu"]), build_classifier(jobs["cpu"].model).transform)
        for config in jobs.values():
            export(config)
        found |= exports(*(open_export(config.output.url) for config in jobs.values()))
    table = Table(title="input.decoder: device (a CPU), against cpu", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:.4g}")
    Console(width=100).print(table)
    record = {name: float(f"{value:.4g}") for name, value in found.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
