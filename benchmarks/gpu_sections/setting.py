"""What is measured, and how large: the whole measurement for a card, the same in miniature for any CPU."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from finer_ray.config.schema import ModelConfig
from finer_ray.models import Classifier, build_classifier

VIT, DINO = "ViT-B/16", "DINOv2 ViT-B/14"
Record = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One measurement.

    Attributes:
        device: cpu or cuda.
        miniature: whether its numbers mean nothing, whatever the device.
        models: what `model` of a config says, by name: the two ViTs.
        cnn: the same of one CNN.
        batches: sizes that the forward pass is tried with.
        rounds, seconds: how often runs take turns, and how long a turn lasts about.
        square: side of the matrices whose product is timed.
        buffer: bytes that are copied.
        photos: distinct ones that are drawn; of the real ones as many at most.
        shard_images, shards, unit: of the whole job; a unit's rows.
        deletion_shards: of the job with deletion.
        script_images: that the official script's loop takes.
        compile: modes of `compute.compile`.
        executor, overrides: `compute.executor`, and keys of the job's config with their values.
        work: a folder for what is drawn and written.
    """

    device: torch.device
    miniature: bool
    work: Path
    models: dict[str, dict[str, Any]]
    cnn: dict[str, Any]
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    square: int
    buffer: int
    photos: int
    shard_images: int
    shards: int
    unit: int
    deletion_shards: int
    script_images: int
    compile: tuple[Literal[True] | str, ...]
    executor: str
    overrides: tuple[str, ...] = ()
    _built: dict[str, Classifier] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        """Whether this is a card."""
        return self.device.type == "cuda"

    def load(self, options: dict[str, Any]) -> Classifier:
        """A classifier with random weights, which cost what others cost, on the CPU in float32; a copy of its own."""
        name = repr(options)
        if name not in self._built:
            self._built[name] = build_classifier(ModelConfig(**self.model_tree(options)))
        return copy.deepcopy(self._built[name])

    def model_tree(self, options: dict[str, Any]) -> dict[str, Any]:
        """The section `model` of a config, by its options; mean pooling needs a probe, which is drawn."""
        tree = {"weights": "random", **options}
        width = tree.pop("probe", None)
        if width is not None:
            path = self.work / f"probe-{width}.safetensors"
            save_file({"weight": torch.randn((1000, width), generator=torch.Generator().manual_seed(0))}, path)
            tree["head"] = str(path)
        return tree


Modes = tuple[Literal[True] | str, ...]


def whole(device: torch.device, work: Path, executor: str, modes: Modes, overrides: tuple[str, ...] = ()) -> Setting:
    """On a card: minutes."""
    return Setting(
        device=device,
        miniature=False,
        work=work,
        models={
            VIT: {"backbone": "timm:vit_base_patch16_224"},
            DINO: {"backbone": "timm:vit_base_patch14_dinov2", "image_size": 224, "pool": "avg", "probe": 768},
        },
        cnn={"backbone": "timm:efficientnet_lite0"},
        batches=(64, 128, 256, 512),
        rounds=5,
        seconds=0.25,
        square=8192,
        buffer=2**30,
        photos=64,
        shard_images=1024,
        shards=24,
        unit=256,
        deletion_shards=1,
        script_images=48,
        compile=modes,
        executor=executor,
        overrides=overrides,
    )


def quick(device: torch.device, work: Path, executor: str, modes: Modes, overrides: tuple[str, ...] = ()) -> Setting:
    """The same code with tiny models and few images: a minute on two CPU cores, and no result of anything."""
    return Setting(
        device=device,
        miniature=True,
        work=work,
        models={
            VIT: {"backbone": "timm:test_vit"},
            DINO: {"backbone": "timm:test_vit", "pool": "avg", "probe": 64},
        },
        cnn={"backbone": "timm:test_efficientnet"},
        batches=(2, 4),
        rounds=2,
        seconds=0.0,
        square=128,
        buffer=2**20,
        photos=4,
        shard_images=16,
        shards=2,
        unit=8,
        deletion_shards=1,
        script_images=2,
        compile=modes,
        executor=executor,
        overrides=overrides,
    )
