"""The whole job: tars in, Zarr and Parquet out, on Ray."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.gpu_sections.photos import write_shards
from benchmarks.gpu_sections.setting import VIT, Record, Setting
from benchmarks.timed import rate_between, run_timed
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.config.yaml_text import read_yaml
from finer_ray.errors import ConfigError
from finer_ray.pipeline.cluster import connected

# What is measured, the most wanted first. A key that the config does not have is recorded as refused.
VARIANTS: dict[str, dict[str, Any]] = {
    "no deletion": {},
    "deletion and drops": {"metrics": {"deletion": True, "steps": 20, "drops": True}},
    "no deletion, compiled": {"compute": {"compile": True}},
}


def job(setting: Setting, record: Record, found: Record) -> None:
    """Images per second of the export, by variant."""
    shards = write_shards(setting)
    with nullcontext() if setting.executor == "inline" else connected():
        for name, change in VARIANTS.items():
            if "compile" not in change.get("compute", {}) or setting.compile:
                few = shards[: setting.deletion_shards] if "metrics" in change else shards
                found[name] = _measured(setting, few, name, change)


def _measured(setting: Setting, shards: list[Path], name: str, change: dict[str, Any]) -> Record:
    try:
        config = job_config(setting, shards, name.replace(" ", "-"), {"executor": setting.executor}, change)
    except ConfigError as error:
        return {"refused": str(error)}
    marks, seconds = run_timed(config)
    rates = {"first to last commit": rate_between(marks), "in the middle": rate_between(marks, 0.25, 0.75)}
    known = [rate for rate in rates.values() if rate is not None]
    return {
        "images": marks[-1][1],
        # Of two commits close together the rate says nothing; the lower one is the one to trust.
        "images_per_second": {**rates, "lower": min(known) if known else None},
        "seconds with start-up": seconds,
        "compute": config.compute.model_dump(mode="json"),
    }


def job_config(
    setting: Setting, shards: list[Path], name: str, compute: dict[str, Any], change: dict[str, Any] | None = None
) -> Config:
    """The job of the ViT with default maps in bf16.

    Args:
        name: of the folder that it writes to.
        compute: keys of that section; threads count on a CPU alone.
        change: sections with keys that differ.
    """
    tree: dict[str, Any] = {
        "input": {"shards": [str(shard) for shard in shards]},
        "model": setting.model_tree(setting.models[VIT]),
        "output": {
            "url": str(setting.work / name),
            "rows_per_unit": setting.unit,
            "rows_per_chunk": min(32, setting.unit),
        },
        "compute": {"precision": "bf16", "device": setting.device.type, "threads_per_actor": 1, **compute},
    }
    for section, keys in (change or {}).items():
        tree[section] = {**tree.get(section, {}), **keys}
    for override in setting.overrides:
        place, _, value = override.partition("=")
        section, _, key = place.partition(".")
        tree[section] = {**tree.get(section, {}), key: read_yaml(value)}
    return parse_config(tree)
