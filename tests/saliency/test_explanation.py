"""`explain` against full autograd in float64, pytorch-grad-cam, and torch-cam."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCam

from finer_ray.config import ModelConfig
from finer_ray.models import Classifier, build_classifier
from finer_ray.saliency import Question, explain

MODELS = {
    "vit": {"backbone": "timm:vit_tiny_patch16_224", "image_size": (64, 96)},
    "vit-avg": {"backbone": "timm:vit_tiny_patch16_224", "image_size": 64, "pool": "avg"},
    "registers": {"backbone": "timm:vit_small_patch14_reg4_dinov2", "image_size": 56, "head": "probe"},
    "dinov2": {"backbone": "timm:vit_small_patch14_dinov2", "image_size": 56, "pool": "avg", "head": "probe"},
    "resnet": {"backbone": "timm:test_resnet", "image_size": (64, 96)},
    "efficientnet": {"backbone": "timm:efficientnet_lite0", "image_size": 64},
    "convnext": {"backbone": "timm:convnext_atto", "image_size": 64},
    "swin": {"backbone": "timm:swin_tiny_patch4_window7_224"},
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Classifier]:
    from safetensors.torch import save_file

    probe = tmp_path_factory.mktemp("probe") / "probe.safetensors"
    save_file({"weight": torch.randn((20, 384), generator=torch.Generator().manual_seed(3))}, str(probe))
    made: dict[str, Classifier] = {}

    def cached(name: str) -> Classifier:
        if name not in made:
            options: dict[str, Any] = {"weights": "random", **MODELS[name]}
            if options.get("head") == "probe":
                options["head"] = str(probe)
            made[name] = build_classifier(ModelConfig(**options)).double()
        return made[name]

    return cached


def images(model: Classifier, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, 3, *model.transform.size), generator=generator, dtype=torch.float64)


def cam_layer(model: Classifier) -> nn.Module | None:
    """The library's module whose output is the CAM layer, where there is one."""
    encoder = model.split.encoder
    return encoder.blocks[-1].norm1 if hasattr(encoder, "blocks") and hasattr(encoder, "patch_embed") else None


def by_autograd(model: Classifier, x: Tensor, classes: Tensor) -> Tensor:
    """M_j of each image and class: one full backward pass each through the library's own forward."""
    encoder, kept = model.split.encoder, []
    parameters = list(encoder.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    layer = cam_layer(model)
    maps = []
    for image, indices in zip(x, classes, strict=True):
        row = []
        for index in indices:
            kept.clear()
            if layer is not None:
                handle = layer.register_forward_hook(lambda _m, _i, out: kept.append(out))
                output = model.split(image[None])
                handle.remove()
                activation = kept[0]
            else:
                activation = encoder.forward_features(image[None])
                output = encoder.forward_head(activation)
            logits = model.head(output) if output.shape[1] != len(model.head.weight) else output
            (gradient,) = torch.autograd.grad(logits[0, index], activation)
            alpha = model.grid(gradient).mean((2, 3), keepdim=True)
            row.append((alpha * model.grid(activation)).sum(1)[0].detach())
        maps.append(torch.stack(row))
    for parameter in parameters:
        parameter.requires_grad_(False)
    return torch.stack(maps)


@pytest.mark.parametrize("name", MODELS)
def test_basis_is_that_of_full_autograd(build: Callable[[str], Classifier], name: str) -> None:
    model = build(name)
    x = images(model)
    result = explain(model, x, Question(gamma=0.6))
    classes = torch.cat([result.target[:, None], result.references], dim=1)
    expected = by_autograd(model, x, classes)
    assert (result.basis - expected).abs().max() <= 1e-9 * expected.abs().max()
    finer = (expected[:, 0] - 0.6 * expected[:, 1:].mean(1)).relu()
    assert (result.maps[:, 1] - finer).abs().max() <= 1e-9 * expected.abs().max()
    assert (result.maps[:, 0] - expected[:, 0].relu()).abs().max() <= 1e-9 * expected.abs().max()


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_batch_is_its_images_one_by_one(build: Callable[[str], Classifier], name: str) -> None:
    model = build(name)
    x = images(model, 4)
    batch = explain(model, x, Question())
    for position in range(4):
        single = explain(model, x[position : position + 1], Question())
        torch.testing.assert_close(single.basis[0], batch.basis[position], rtol=1e-9, atol=1e-12)
        assert single.references[0].tolist() == batch.references[position].tolist()


@pytest.mark.parametrize("name", ["vit", "resnet", "efficientnet"])
def test_is_pytorch_grad_cam(build: Callable[[str], Classifier], name: str) -> None:
    """Its raw maps, before it rescales them; of Grad-CAM, because its FinerCAM weights references by probability."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = build(name)
    x = images(model)
    ours = explain(model, x, Question(maps=("gradcam",)))
    layer = cam_layer(model) or {"resnet": "layer4", "efficientnet": "bn2"}[name]
    layer = model.split.encoder.get_submodule(layer) if isinstance(layer, str) else layer
    reshape = model.grid if name == "vit" else None
    encoder = model.split.encoder.requires_grad_(True)
    with GradCAM(encoder, [layer], reshape_transform=reshape) as cam:
        cam.activations_and_grads(x)
        outputs = cam.outputs = cam.activations_and_grads(x)
        targets = [ClassifierOutputTarget(int(index)) for index in ours.target]
        loss = sum(target(output) for target, output in zip(targets, outputs, strict=True))
        encoder.zero_grad()
        loss.backward()
        activation = cam.activations_and_grads.activations[-1].numpy()
        gradient = cam.activations_and_grads.gradients[-1].numpy()
        theirs = cam.get_cam_image(x, layer, targets, activation, gradient, eigen_smooth=False)
    encoder.requires_grad_(False)
    theirs = torch.from_numpy(theirs).relu()
    assert (ours.maps[:, 0] - theirs).abs().max() <= 1e-9 * theirs.max()


def test_is_torch_cam(build: Callable[[str], Classifier]) -> None:
    """Its maps without its normalisation; its weights are the same spatial means."""
    model = build("resnet")
    x = images(model, 1)
    ours = explain(model, x, Question(maps=("gradcam",)))
    encoder = model.split.encoder.requires_grad_(True)
    with TorchCam(encoder, target_layer="layer4") as cam:
        scores = encoder(x.clone().requires_grad_(True))
        (theirs,) = cam(int(ours.target[0]), scores, normalized=False)
    encoder.requires_grad_(False)
    torch.testing.assert_close(ours.maps[0, 0], theirs[0].double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_half_precision_gives_float32_results_close_to_it(name: str) -> None:
    model = build_classifier(ModelConfig(backbone=f"timm:{name}", weights="random"))
    x = images(model).float()
    target = torch.tensor([1, 2, 3])
    question = Question(selection=(10, 20, 30))
    full = explain(model, x, question, target)
    with torch.autocast("cpu", torch.bfloat16):
        half = explain(model, x, question, target)
    for values in (half.basis, half.maps, half.logits, half.embedding):
        assert values.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([half.basis.flatten(), full.basis.flatten()]))[0, 1]
    assert correlation > 0.99


def test_targets_selections_and_few_classes(build: Callable[[str], Classifier]) -> None:
    model = build("resnet")
    x = images(model)
    logits = model(x)
    target = torch.tensor([4, 7, 11])
    by_logit = explain(model, x, Question(references=2), target)
    assert by_logit.target.tolist() == [4, 7, 11]
    for row, c in enumerate(target):
        distance = (logits[row] - logits[row, c]).abs()
        distance[c] = torch.inf
        assert by_logit.references[row].tolist() == distance.argsort()[:2].tolist()
    by_weight = explain(model, x, Question(references=2, selection="weight"), target)
    unit = nn.functional.normalize(model.head.weight, dim=1)
    for row, c in enumerate(target):
        cosine = unit @ unit[c]
        cosine[c] = -torch.inf
        assert by_weight.references[row].tolist() == cosine.argsort(descending=True)[:2].tolist()
    listed = explain(model, x, Question(selection=(7, 1)), target)
    assert listed.references.tolist() == [[7, 1], [-1, 1], [7, 1]]
    assert listed.basis[1, 1].isnan().all()
    assert listed.maps.isfinite().all()
    assert Question(references=3).reference_count(3) == 2
