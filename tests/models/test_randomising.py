"""Parts of models of every library, and what randomising them leaves."""

import pytest
import torch
from torch import nn

from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier
from finer_ray.models.randomising import parts_of, randomise, recalibrate

CLASSES = ["cat", "dog", "bird"]
LASTS = {
    # Of whose parameters the last block has more than half, and so is divided.
    "timm:test_resnet": ["layer4.0.downsample.1", "conv1.0"],
    "timm:test_efficientnet": ["conv_head", "conv_stem"],
    "timm:test_vit": ["blocks.5", "patch_embed.proj"],
    "torchvision:resnet18": ["layer4.1", "conv1"],
    "clip": ["transformer.resblocks.1", "conv1"],
}


@pytest.mark.parametrize("backbone", LASTS)
def test_every_parameter_that_is_used_is_of_one_part(backbone: str, clip: str) -> None:
    tower = {"head": "text", "classes": CLASSES} if backbone == "clip" else {"image_size": 64}
    config = {"backbone": clip if backbone == "clip" else backbone, "weights": "random", **tower}
    model = build_classifier(ModelConfig.model_validate(config))
    images = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    parts = parts_of(model, images[:1])
    assert [part.name for part in parts][:2] == ["the head", LASTS[backbone][0]]
    assert parts[-1].name == LASTS[backbone][1]
    assert not any(parameter.requires_grad for parameter in model.parameters())

    ids = [id(tensor) for part in parts for tensor in part.tensors]
    assert len(set(ids)) == len(ids)
    # Those that the embedding depends on, by autograd through the library's own model.
    parameters = list(model.split.encoder.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    slopes = torch.autograd.grad(model.split.encode(images).square().sum(), parameters, allow_unused=True)
    used = {id(parameter) for parameter, slope in zip(parameters, slopes, strict=True) if slope is not None}
    assert used == set(ids) - {id(model.head.weight), id(model.head.bias)}

    # From the head down: what lies before a part is not touched.
    before = {id(tensor): tensor.detach().clone() for part in parts for tensor in part.tensors}
    generator = torch.Generator().manual_seed(1)
    for depth, part in enumerate(parts):
        randomise(part, generator)
        for later in parts[depth + 1 :]:
            assert all(torch.equal(tensor, before[id(tensor)]) for tensor in later.tensors)
        for tensor in part.tensors:
            assert torch.equal(tensor.flatten().sort().values, before[id(tensor)].flatten().sort().values)
        assert any(not torch.equal(tensor, before[id(tensor)]) for tensor in part.tensors)


def test_statistics_of_batch_normalisations_are_those_of_the_images() -> None:
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    images = torch.randn((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    parts = parts_of(model, images[:1])
    every = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {id(norm) for part in parts for norm in part.norms} == set(map(id, every))
    norms = parts[1].norms
    others = {id(norm): norm.running_mean.clone() for norm in every if id(norm) not in set(map(id, norms))}
    randomise(parts[1], torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    hook = norms[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    recalibrate(model.split, norms, [images[:2], images[2:]])
    hook.remove()
    torch.testing.assert_close(norms[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    torch.testing.assert_close(norms[0].running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
    assert not any(norm.training for norm in every)
    assert norms[0].momentum == nn.BatchNorm2d(1).momentum
    assert all(torch.equal(norm.running_mean, others[id(norm)]) for norm in every if id(norm) in others)
