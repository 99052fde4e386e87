"""`explain` against pytorch-grad-cam and torch-cam: their maps before they rescale them."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import FinerCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM, base_cam
from torch import Tensor, nn
from torchcam import methods as torchcam

from finer_ray.models import Classifier
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from tests.saliency.models import build, cam_layer, images

TOKENS = ["vit", "vit-avg", "registers", "registers-avg", "dinov2", "clip-tok", "clip-avg"]
LAYERS = {"resnet": "layer4", "efficientnet": "bn2", "convnext": "stages"}
NAMES = [*TOKENS, *LAYERS, "clip-resnet"]

# And how close ours come.
GRADIENT_CAMS = {
    "gradcam": (GradCAM, 1e-9),
    "layercam": (LayerCAM, 1e-9),
    "hirescam": (HiResCAM, 1e-9),
    "xgradcam": (XGradCAM, 1e-9),
    "gradcampp": (GradCAMPlusPlus, 1e-9),
}


class Whole(nn.Module):
    """Encoder and head as one module, as the libraries take it; its weights are open to gradients."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.split.encoder, model.head
        self.native = getattr(self.encoder, "num_classes", 0) > 0
        self.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        output = self.encoder(images)
        return output if self.native else self.head(output)


def layer_of(model: Classifier, name: str) -> nn.Module:
    found = cam_layer(model)
    return found or model.split.encoder.get_submodule(LAYERS[name])


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-grad-cam without its rescaling."""
    monkeypatch.setattr(base_cam, "scale_cam_image", lambda cam, target_size=None: cam)


def theirs(model: Classifier, name: str, method: Any, x: Tensor, **options: Any) -> Tensor:
    reshape = partial(model.split.grid, size=model.transform.size) if name in TOKENS else None
    whole = Whole(model)
    base = options.pop("base", None)
    extra = {} if base is None else {"base_method": base}
    with method(whole, [layer_of(model, name)], reshape, **extra) as cam:
        found = cam(x, targets=None, **options)
    whole.requires_grad_(False)
    return torch.from_numpy(np.asarray(found))


def agrees(found: Tensor, expected: Tensor, bound: float) -> bool:
    return bool((found - expected).abs().max() <= bound * expected.abs().max())


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("name", NAMES)
def test_gradient_cams_of_pytorch_grad_cam(name: str) -> None:
    model = build(name)
    x = images(model)
    cams = list(GRADIENT_CAMS) if name in ("vit", "vit-avg", "clip-tok", *LAYERS) else ["gradcam", "layercam"]
    maps = [MapSpec(cam, cam) for cam in cams]
    finer = [MapSpec(f"finer_{cam}", cam, 0.6, weighting="probability") for cam in cams]
    ours = explain(model, x, SaliencySpec((*maps, *finer))).maps.unbind(1)
    for cam, plain, compared in zip(cams, ours, ours[len(maps) :], strict=False):
        base, bound = GRADIENT_CAMS[cam]
        assert agrees(plain, theirs(model, name, base, x), bound), cam
        # Its weights' denominator has 1e-9 added, which shows where the references' probabilities are small.
        expected = theirs(model, name, FinerCAM, x, base=base, alpha=0.6, comparison_categories=[1, 2, 3])
        assert agrees(compared, expected, 1e-4), cam


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("name", ["vit", "clip-tok", "resnet"])
def test_scorecam_of_pytorch_grad_cam(name: str) -> None:
    model = build(name)
    x = images(model, 1)
    maps = (MapSpec("s", "scorecam"), MapSpec("f", "scorecam", 0.6, weighting="probability"))
    ours = explain(model, x, SaliencySpec(maps)).maps
    # It keeps the scores in float32.
    assert agrees(ours[:, 0], theirs(model, name, ScoreCAM, x), 1e-6)
    expected = theirs(model, name, FinerCAM, x, base=ScoreCAM, alpha=0.6, comparison_categories=[1, 2, 3])
    assert agrees(ours[:, 1], expected, 1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("cam", "base"), [("gradcam", torchcam.GradCAM), ("layercam", torchcam.LayerCAM)])
def test_finercam_of_torch_cam(name: str, cam: Any, base: Any) -> None:
    """With the paper's settings: 3 references, equal weights, gamma 0.6; and with gamma 0."""
    model = build(name)
    x = images(model)
    maps = (MapSpec("baseline", cam), MapSpec("finer", cam, 0.6))
    ours = explain(model, x, SaliencySpec(maps))
    reshape = partial(model.split.grid, size=model.transform.size) if name in TOKENS else None
    whole = Whole(model)
    for place, gamma in ((0, 0.0), (1, 0.6)):
        with torchcam.FinerCAM(
            whole, layer_of(model, name), base_method=base, gamma=gamma, reshape_transform=reshape
        ) as extractor:
            scores = whole(x.clone().requires_grad_(True))
            (found,) = extractor(ours.target.tolist(), scores, normalized=False)
        assert agrees(ours.maps[:, place], found.double().detach(), 1e-6)
    whole.requires_grad_(False)
