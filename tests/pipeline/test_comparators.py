"""RISE, Mask, GEM, LeGrad and Chefer's relevance in the whole job, once on Ray."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.images.decode import decode
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.pipeline.targets import check_saliency, saliency_spec
from finer_ray.saliency import Gem, LeGrad, Mask, Rise, explain
from finer_ray.shards import ShardRef, fields_of, read_unit
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import sample, write_tar

Job = Callable[..., Config]
MAPS = ["gradcam", "rise", "finer_rise", "mask", "finer_mask", "gem", "finer_gem", "finer_legrad", "finer_chefer"]
WORDS = ["cat", "dog", "bird", "fish"]
QUICK = {
    "rise": {"masks": 20, "seed": 3},
    "mask": {"steps": 4, "jitter": 2},
    "gem": {"depth": 2},
    "legrad": {"layers": 1},
}


def text(clip: str, **options: Any) -> dict[str, Any]:
    return {"backbone": clip, "weights": "random", "image_size": None, "head": "text", "classes": WORDS, **options}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_whole_job(tmp_path: Path, job: Job, clip: str) -> None:
    members = [m for i in range(5) for m in sample(f"p{i}", i, i % 4, [10, 8, 60, 50])]
    tar = write_tar(tmp_path / "a.tar", members)
    own = {"name": "against", "cam": "mask", "reverse": True, "aggregation": "max_before_relu"}
    saliency = {"maps": [*MAPS, own], "references": 2, **QUICK}
    config = job(str(tar), model=text(clip), saliency=saliency, compute={"executor": "ray", "batch_size": 2})
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    assert made.images.num_rows == 5

    classifier = build_classifier(config.model)
    spec = saliency_spec(config, classifier)
    assert spec.settings == {
        "rise": Rise(masks=20, seed=3),
        "mask": Mask(steps=4, jitter=2),
        "gem": Gem(depth=2),
        "legrad": LeGrad(layers=1),
    }
    transform = classifier.transform
    samples = read_unit(ShardRef(str(tar), "webdataset"), fields_of("webdataset"), 0, 5, 2**28)
    pixels = np.stack([decode(one, transform, 10**8).image for one in samples])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    expected = explain(classifier, (images - mean) / std, spec)
    rows = made.images["row"].to_numpy()
    for place, name in enumerate([*MAPS, "against"]):
        direct = expected.maps[:, place].numpy()
        # Adam divides by the length of its gradients: what is rounded in them can show.
        bound = 2.0**-11 * direct.max((1, 2), keepdims=True) + (1e-3 if "mask" in name or name == "against" else 1e-5)
        assert (np.abs(made.maps(rows, name) - direct) <= bound).all(), name
    localisation = {(line["row"], line["map"]): line["localisation"] for line in made.metrics.to_pylist()}
    assert len(localisation) == 5 * 10
    assert all(localisation[row, name] is not None for row in rows for name in ("rise", "gem"))


def test_concepts(tmp_path: Path, job: Job, clip: str) -> None:
    """Asked of texts, p is the softmax among the concepts; the classes have no part in it."""
    tar = write_tar(tmp_path / "a.tar", [m for i in range(3) for m in sample(f"p{i}", i, i % 4)])
    concepts = ["red bill", "black wing", "bird"]
    config = job(
        str(tar),
        model=text(clip, concepts=concepts),
        saliency={
            "maps": ["rise", "mask", "gem", "finer_gem", "finer_legrad", "finer_chefer"],
            "target": "concept",
            "concept": {"default": ["red bill", "bird"]},
            **QUICK,
        },
    )
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    rows = made.images["row"].to_numpy()
    # The same three texts as classes: the same maps.
    alone = build_classifier(config.model.model_copy(update={"classes": concepts, "concepts": None}))
    both = build_classifier(config.model)
    samples = read_unit(ShardRef(str(tar), "webdataset"), fields_of("webdataset"), 0, 3, 2**28)
    pixels = np.stack([decode(one, both.transform, 10**8).image for one in samples])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (both.transform.mean, both.transform.std))
    target, reference = torch.tensor([0, 0, 0]), torch.tensor([[2]] * 3)
    expected = explain(alone, (images - mean) / std, saliency_spec(config, both), target, reference).maps.numpy()
    for place, name in enumerate(config.saliency.maps):
        assert np.abs(made.maps(rows, name) - expected[:, place]).max() < 2e-3, name


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("gem", "gem needs one of open_clip's own ViTs"),
        ("finer_gem", "gem needs one of open_clip's own ViTs"),
        ({"name": "own", "cam": "gem"}, "gem needs one of open_clip's own ViTs"),
        ("finer_legrad", "legrad needs a ViT of plain blocks"),
        ("chefer", "chefer needs a ViT of plain blocks"),
    ],
)
def test_maps_of_vits_are_refused_for_others(tmp_path: Path, job: Job, item: Any, reason: str) -> None:
    """Before any work: there is not even a shard."""
    config = job(str(tmp_path / "none.tar"), saliency={"maps": ["gradcam", item]})
    with pytest.raises(ConfigError, match=rf"saliency\.maps\.1: {reason}.*timm:test_resnet"):
        export(config)
    assert not Path(config.output.url).exists()


def test_gem_is_refused_without_texts(tmp_path: Path, job: Job, clip: str) -> None:
    """A probe on plain embeddings is refused; one on normalised ones, and concepts beside it, are not."""
    weight, path = torch.randn((4, 24)), str(tmp_path / "probe.safetensors")
    save_file({"weight": weight}, path)
    probe = text(clip, head=path, classes=WORDS)
    config = job(str(tmp_path / "none.tar"), model=probe, saliency={"maps": ["gem"]})
    with pytest.raises(ConfigError, match=r"saliency\.maps\.0: gem compares patches with texts, and model\.head"):
        export(config)
    concepts = {**probe, "concepts": ["red bill", "bird"]}
    refused = job("none.tar", model=concepts, saliency={"maps": ["gem"]})
    with pytest.raises(ConfigError, match=r"saliency\.maps\.0: gem compares"):
        check_saliency(refused, build_classifier(refused.model))
    asked = {"maps": ["gem"], "target": "concept", "concept": {"default": ["red bill", "bird"]}}
    allowed = job("none.tar", model=concepts, saliency=asked)
    check_saliency(allowed, build_classifier(allowed.model))
    save_file({"weight": weight}, path, {"normalize": "true", "classes": json.dumps(WORDS)})
    check_saliency(config, build_classifier(config.model))
