"""Preparing a classifier for a device changes how it computes, and nothing that it computes."""

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from finer_ray.config.schema import ModelConfig
from finer_ray.models import Classifier, build_classifier, preparing
from finer_ray.models.preparing import HALVES, autocast, compiled, prepare
from finer_ray.pipeline.device_transfer import HostToDevice, fetch
from finer_ray.saliency import MapSpec, Mask, Rise, SaliencySpec, explain

CPU = torch.device("cpu")
MAPS = (MapSpec("gradcam"), MapSpec("finer_gradcam", gamma=0.6), MapSpec("layercam", "layercam", 0.6))
QUESTION = SaliencySpec(MAPS)
# Passes of their own through the model, and one of them a descent.
MORE = SaliencySpec(
    (*MAPS, MapSpec("mask", "mask"), MapSpec("rise", "rise")), settings={"mask": Mask(steps=3), "rise": Rise(masks=8)}
)
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["timm:test_vit", "timm:test_resnet", "timm:test_efficientnet", "clip"])
def classifier(request: pytest.FixtureRequest, clip: str) -> Classifier:
    if request.param == "clip":
        config = ModelConfig(backbone=clip, weights="random", head="text", classes=list("abcdefg"))
    else:
        config = ModelConfig(backbone=request.param, weights="random", image_size=64)
    return build_classifier(config)


def pictures(classifier: Classifier, count: int = 3) -> torch.Tensor:
    return torch.randn((count, 3, *classifier.transform.size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halved_weights_are_those_that_autocast_makes(
    classifier: Classifier, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: autocast rounds the same weights to the same values, only again for every batch."""
    images = pictures(classifier)
    halved = prepare(copy.deepcopy(classifier), CPU, precision)
    dtypes = [layer.weight.dtype for layer in halved.split.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    # Of a CNN all but its own classifier, which nothing calls.
    assert dtypes.count(torch.float32) <= 1 or halved.split.block(halved.transform.size) is not None
    assert dtypes.count(HALVES[precision]) >= 3
    monkeypatch.setattr(preparing, "_halve", lambda *_: None)
    whole = prepare(copy.deepcopy(classifier), CPU, precision)
    with autocast(CPU, precision):
        expected, found = (explain(model, images, MORE) for model in (whole, halved))
    assert found.maps.dtype == torch.float32
    for name in ("logits", "embedding", "basis", "maps"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


def test_preparing_in_another_process_leaves_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch numbers hooks from 0 again, and takes the place of those that came with a model."""
    model = build_classifier(ModelConfig(backbone="timm:test_vit", weights="random", cam_layer="blocks.1"))
    images = pictures(model)
    expected = explain(model, images, QUESTION)
    hooks = model.split.encoder.head._forward_pre_hooks
    place = [*model.split.modules()].index(model.split.encoder.head)
    hooks[place] = hooks.pop(next(iter(hooks)))
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    prepare(model, CPU, "bf16")
    with autocast(CPU, "bf16"):
        found = explain(model, images, QUESTION)
    torch.testing.assert_close(found.embedding, expected.embedding, rtol=0.1, atol=0.1)


def test_float32_is_left_alone(classifier: Classifier) -> None:
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    prepare(classifier, CPU, "fp32")
    for name, value in classifier.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_channels_last_gives_the_same(classifier: Classifier) -> None:
    images = pictures(classifier)
    expected = explain(classifier, images, QUESTION)
    last = copy.deepcopy(classifier).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = explain(last, images.contiguous(memory_format=torch.channels_last), QUESTION)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-3, atol=1e-5 * float(expected.maps.max()))


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_a_compiled_trunk_is_entered_by_one_thread_in_one_mode(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[tuple[bool, bool]] = []
    inside: list[int] = []

    def compile_(trunk: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def fast(images: torch.Tensor) -> Any:
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.02)
            inside.pop()
            return trunk(images)

        return fast

    monkeypatch.setattr(torch, "compile", compile_)
    weight = torch.ones(4, requires_grad=True)
    run = compiled(lambda images: (images * weight, None), mode)

    def inference() -> None:
        with torch.inference_mode():
            results.append(run(torch.ones(4)))

    def without() -> None:
        with torch.no_grad():
            results.append(run(torch.ones(4)))

    results: list[Any] = []
    threads = [threading.Thread(target=each) for each in (inference, without) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert set(modes) == {(False, False)}
    # A graph is the business of the trunk as it was.
    assert run(torch.ones(4))[0].requires_grad
    assert len(modes) == 8


def test_feeding_and_fetching_on_a_cpu() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(6, 4)
    values.flags.writeable = False  # As Arrow's buffers are.
    rows = np.array([5, 0, 5])
    sent = HostToDevice(CPU)(values, rows)
    assert torch.equal(sent, torch.tensor(values[rows]))
    sent += 1
    assert values[0, 0] == 0
    np.testing.assert_array_equal(fetch({"x": sent})()["x"], values[rows] + 1)
    assert fetch({})() == {}


@NEEDS_GPU
def test_feeding_and_fetching_on_a_gpu() -> None:
    device = torch.device("cuda")
    values = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3), dtype=np.uint8)
    feed, waiting = HostToDevice(device), []
    for first in range(0, 64, 8):
        sent = feed(values, np.arange(first, first + 8))
        waiting.append(fetch({"x": sent.float() * 2}))
    found = np.concatenate([arrive()["x"] for arrive in waiting])
    np.testing.assert_array_equal(found, values.astype(np.float32) * 2)


@NEEDS_GPU
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("tf32", 0.999), ("bf16", 0.98)])
def test_a_gpu_gives_what_a_cpu_does(classifier: Classifier, precision: str, least: float) -> None:
    images = pictures(classifier)
    expected = explain(classifier, images, QUESTION)
    device = torch.device("cuda")
    there = prepare(copy.deepcopy(classifier), device, precision)
    with autocast(device, precision):
        found = explain(there, images.to(device), QUESTION, expected.target.to(device), expected.references.to(device))
    pair = torch.stack([found.basis.flatten().cpu(), expected.basis.flatten()])
    assert torch.corrcoef(pair)[0, 1] > least
