"""What half precision may cost: real models' maps and choices against float32, and what is kept out of it."""

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finer_ray.config.schema import InputConfig, ModelConfig
from finer_ray.demo.run_demo import birds_config, demo_config
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.head import LinearHead
from finer_ray.models.preparing import InFloat32, autocast, prepare
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.pipeline.unit_tables import from_column
from finer_ray.saliency import Explanation, MapSpec, SaliencySpec, explain
from finer_ray.shards import find_shards
from finer_ray.store.manifest import Unit

CPU = torch.device("cpu")
DEMO = resources.files("finer_ray.demo")
MAPS = (MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=0.6))
SPEC = SaliencySpec(MAPS)


def vit(**options: Any) -> Classifier:
    return build_classifier(ModelConfig(backbone="timm:test_vit", weights="random", image_size=64, **options))


def noise(classifier: Classifier, count: int = 3) -> Tensor:
    return torch.randn((count, 3, *classifier.transform.size), generator=torch.Generator().manual_seed(1))


def photos(classifier: Classifier, pattern: str, count: int) -> Tensor:
    """The first of a shard of the demo, as the model takes them."""
    transform = classifier.transform
    (ref, *_) = find_shards([str(DEMO / pattern)])
    loader = Loader(InputConfig.model_validate({"shards": [ref.url]}), transform, False, 0.0)
    pixels = np.array(from_column(loader(Unit(0, ref.url, "webdataset", 0, 0, count))["pixels"]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def in_bf16(classifier: Classifier, images: Tensor, *known: Tensor) -> Explanation:
    model = prepare(copy.deepcopy(classifier), CPU, "bf16")
    with autocast(CPU, "bf16"):
        return explain(model, images, SPEC, *known)


def deviation(found: Explanation, exact: Explanation) -> Tensor:
    """Largest difference of each map in shares of its maximum, (maps that are not empty,)."""
    ours, theirs = found.maps.flatten(2), exact.maps.flatten(2)
    most = theirs.amax(2)
    return ((ours - theirs).abs().amax(2) / most)[most > 0]


@pytest.mark.parametrize(
    ("pattern", "middle", "most"), [("birds/*.tar", 0.01, 0.03), ("photos/*.tar", 0.04, 0.1)], ids=["ViT", "CNN"]
)
def test_real_models_keep_their_maps_and_choices(tmp_path: Path, pattern: str, middle: float, most: float) -> None:
    config = (birds_config if pattern.startswith("birds") else demo_config)(tmp_path)
    classifier = build_classifier(config.model)
    images = photos(classifier, pattern, 12)
    exact = explain(classifier, images, SPEC)
    off = deviation(in_bf16(classifier, images, exact.target, exact.references), exact)
    assert off.median() < middle
    assert off.max() < most
    # It is half precision.
    assert off.max() > 1e-4
    free = in_bf16(classifier, images)
    assert (free.target == exact.target).float().mean() > 0.8
    if pattern.startswith("birds"):
        assert torch.equal(free.target, exact.target)
        assert torch.equal(free.references.sort(1)[0], exact.references.sort(1)[0])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_tell_classes_apart_that_half_precision_does_not(dtype: torch.dtype, normalize: bool) -> None:
    weight = torch.ones((2, 8))
    weight[1, 0] += 2.0**-13
    head, embedding = LinearHead(weight, scale=100.0, normalize=normalize), torch.ones((1, 8))
    with torch.autocast("cpu", dtype):
        whole, half = head(embedding), head(embedding.to(dtype))
    assert whole.dtype == half.dtype == torch.float32
    assert whole.argmax() == half.argmax() == 1
    assert torch.equal(whole, head(embedding))


def test_the_class_tokens_last_block_is_in_float32() -> None:
    classifier = vit()
    block = classifier.split.block(classifier.transform.size)
    assert block is not None
    activation, residual = classifier.split.trunk(noise(classifier))
    cotangent = torch.randn((3, 4, classifier.embedding_size), generator=torch.Generator().manual_seed(2))

    def results() -> list[Tensor]:
        cut = classifier.split.cut(noise(classifier))
        return [cut.embedding, cut.gradient(cotangent), cut.mean_gradient(cotangent)]

    classifier.split.trunk = lambda images: (activation, residual)  # type: ignore[method-assign]
    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(results(), expected, strict=True):
            assert torch.equal(ours, theirs)
    prepared = prepare(vit(), CPU, "bf16").split.block((64, 64))
    assert prepared is not None
    assert {layer.weight.dtype for layer in (prepared.out, prepared.fc1, prepared.fc2)} == {torch.float32}


def test_a_feature_map_is_pooled_in_float32() -> None:
    classifier = prepare(
        build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64)), CPU, "bf16"
    )
    images = noise(classifier)
    with autocast(CPU, "bf16"), torch.no_grad():
        activation, _ = classifier.split.trunk(images)
        assert activation.dtype == torch.bfloat16
        pooled = activation.float().mean((2, 3))
        for embedding in (classifier.split.embed(images), classifier.cut(images).embedding):
            torch.testing.assert_close(embedding, pooled, rtol=1e-6, atol=1e-6)


def test_patches_are_embedded_in_float32_on_a_cpu() -> None:
    classifier = vit()
    images = noise(classifier)
    expected = classifier.split.encoder.patch_embed.proj(images)
    prepared = prepare(classifier, CPU, "bf16")
    assert isinstance(prepared.split.encoder.patch_embed.proj, InFloat32)
    with autocast(CPU, "bf16"):
        assert torch.equal(prepared.split.encoder.patch_embed.proj(images), expected)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_keys_lose_a_bias_that_the_softmax_drops(pool: str) -> None:
    """Of DINOv2's size, beside which half precision has no digits left for the key itself."""
    head = {"head": "none", "classes": list("abcdefgh")} if pool == "avg" else {}
    classifier, plain = vit(pool=pool, **head), vit(pool=pool, **head)
    for model in (classifier, plain):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(5)
            model.head = LinearHead(torch.randn((8, model.embedding_size)))
            for name, layer in model.split.named_modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                if name.endswith("attn.qkv") and model is classifier:
                    query, _, value = layer.bias.chunk(3)
                    layer.bias.copy_(torch.cat([query, torch.full_like(query, 300.0), value]))
    images = noise(classifier)
    exact = explain(classifier, images, SPEC)
    torch.testing.assert_close(exact.logits, explain(plain, images, SPEC).logits, rtol=1e-3, atol=1e-3)
    found = in_bf16(classifier, images, exact.target, exact.references)
    assert torch.equal(found.maps, in_bf16(plain, images, exact.target, exact.references).maps)


def test_compared_keys_keep_their_bias(clip: str) -> None:
    """GEM compares keys with each other."""
    classifier = build_classifier(ModelConfig(backbone=clip, weights="random", head="text", classes=list("abc")))
    attention = classifier.split.encoder.transformer.resblocks[0].attn
    attention.in_proj_bias.fill_(1.0)
    prepare(classifier, CPU, "bf16")
    assert (attention.in_proj_bias == 1.0).all()
