"""Average drop, SRG and ROAD against torch-cam and pytorch-grad-cam, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer, ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor
from torchcam.metrics import ClassificationMetric

from finer_ray.config.schema import MetricsConfig, ModelConfig
from finer_ray.metrics import road
from finer_ray.metrics.imputation import NOISE, impute
from finer_ray.metrics.perturbation import ranks
from finer_ray.models import Classifier, build_classifier
from finer_ray.pipeline.scoring import Scorer
from finer_ray.saliency import Explanation, SaliencySpec, explain
from finer_ray.saliency.registration import draw

# A multiple of five of pixels, so that pytorch-grad-cam's percentiles count as we do.
SIZE = (40, 50)
OFF = dict.fromkeys(("localisation", "deletion", "insertion", "drops", "srg", "average_drop", "road"), False)
Batch = tuple[Classifier, Tensor, Explanation]


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Four images with a map that is flat, but not zero, among others."""
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=SIZE))
    # Else all of a thousand classes are as probable.
    model.head.weight.mul_(30)
    images = torch.randn((4, 3, *SIZE), generator=torch.Generator().manual_seed(0)) * 2
    found = explain(model, images, SaliencySpec())
    found.maps[:] = torch.rand(found.maps.shape, generator=torch.Generator().manual_seed(1)) + 0.1
    found.maps[3, 1] = 0.5
    return model, images, found


def scores(batch: Batch, **metrics: Any) -> dict[str, Tensor]:
    model, images, found = batch
    return Scorer(MetricsConfig(**OFF | metrics), model, torch.device("cpu"), 2**26)(images, found, None)


def without_ties(found: Explanation) -> Explanation:
    """With maps as fine as the image, no two pixels alike: ties go by position whichever way the map is."""
    maps = torch.rand((4, 2, *SIZE), generator=torch.Generator().manual_seed(3))
    return Explanation(**{**vars(found), "maps": maps})


class Extractor:
    """What torch-cam's metric asks of a CAM: the model, and maps from 0 to 1."""

    def __init__(self, model: Classifier, maps: Tensor) -> None:
        self.model, self._maps = model, maps

    def __call__(self, *_: Any) -> list[Tensor]:
        low, high = self._maps.amin((1, 2), keepdim=True), self._maps.amax((1, 2), keepdim=True)
        return [(self._maps - low) / (high - low + 1e-8)]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> torch.no_grad:
        return torch.no_grad()


@pytest.mark.parametrize("place", [0, 1])
def test_average_drop_is_torch_cams(place: int, batch: Batch) -> None:
    model, images, found = batch
    ours = scores(batch, average_drop=True)
    metric = ClassificationMetric(Extractor(model, found.maps[:, place]), lambda logits: logits.softmax(1))
    metric.update(images, found.target.tolist())
    theirs = metric.summary()
    assert ours["average_drop"][:, place].mean().item() == pytest.approx(theirs["avg_drop"], rel=1e-4)
    assert ours["increase"][:, place].mean().item() == pytest.approx(theirs["conf_increase"])


def test_with_black_fill_the_photos_own_pixels_are_multiplied(batch: Batch) -> None:
    model, images, found = batch
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.transform.mean, model.transform.std))
    low, high = found.maps.amin((2, 3), keepdim=True), found.maps.amax((2, 3), keepdim=True)
    share = draw((found.maps - low) / (high - low).clamp(min=1e-8), SIZE, None)[:, :1]
    with torch.no_grad():
        after = model((((images * std + mean) * share) - mean) / std).softmax(1).gather(1, found.target[:, None])[:, 0]
        before = found.logits.softmax(1).gather(1, found.target[:, None])[:, 0]
    ours = scores(batch, average_drop=True, fill="black")
    torch.testing.assert_close(
        ours["average_drop"][:, 0], ((before - after) / before).clamp(min=0), atol=1e-5, rtol=1e-4
    )
    assert torch.equal(ours["increase"][:, 0], (after > before).float())


def test_relevance_gain_is_the_area_between_the_curves(batch: Batch) -> None:
    """Of a map turned upside down it is the negative, and least_first_curve its deletion curve."""
    model, images, found = batch
    found = without_ties(found)
    ours = scores((model, images, found), srg=True, deletion=True, steps=8)
    step = {"dx": 1 / 8, "axis": 2}
    gain = np.trapezoid(ours["least_first_curve"], **step) - np.trapezoid(ours["deletion_curve"], **step)
    np.testing.assert_allclose(ours["srg"], gain, atol=1e-6)
    np.testing.assert_allclose(ours["random_deletion_auc"], np.trapezoid(ours["random_curve"], **step), atol=1e-6)
    assert torch.equal(ours["random_curve"][:, 0], ours["random_curve"][:, 1])
    turned = scores(
        (model, images, Explanation(**{**vars(found), "maps": 2 - found.maps})), srg=True, deletion=True, steps=8
    )
    torch.testing.assert_close(turned["deletion_curve"], ours["least_first_curve"], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(turned["srg"], -ours["srg"], atol=1e-5, rtol=1e-3)
    assert ours["srg"].abs().max() > 1e-3


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_imputation_is_the_authors(share: float) -> None:
    """pytorch-grad-cam has the authors' solver; ours is within a tenth of the noise."""
    drawn = torch.Generator().manual_seed(2)
    images = torch.randn((2, 3, *SIZE), generator=drawn)
    gone = ranks(torch.rand((2, 1, 5, 5), generator=drawn), SIZE)[:, 0] < share * SIZE[0] * SIZE[1]
    ours = impute(images, gone, noise=0)
    for image, mask, made in zip(images, gone, ours, strict=True):
        theirs = NoisyLinearImputer(noise=0)(image, (~mask).float())
        torch.testing.assert_close(made, theirs, atol=0.1 * NOISE, rtol=0)
        assert torch.equal(made[:, ~mask], image[:, ~mask])
    noise = (impute(images, gone) - ours).movedim(1, -1)
    assert noise[gone].std().item() == pytest.approx(NOISE, rel=0.1)
    assert noise[~gone].abs().max() == 0
    # Of a single image the same, to the bit.
    assert torch.equal(impute(images[1:], gone[1:]), impute(images, gone)[1:])


def test_road_is_pytorch_grad_cams(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, found = batch
    monkeypatch.setattr("finer_ray.metrics.imputation.impute.__defaults__", (0.0,))
    monkeypatch.setattr(NoisyLinearImputer.__init__, "__defaults__", (0.0, NoisyLinearImputer.__init__.__defaults__[1]))
    found = without_ties(found)
    ours = scores((model, images, found), road=True)["road"]
    targets = [ClassifierOutputSoftmaxTarget(int(target)) for target in found.target]
    for place in range(2):
        heat = draw(found.maps[:, place], SIZE, None).numpy()
        theirs = ROADCombined(percentiles=list(road.PERCENT))(images, heat, targets, model)
        np.testing.assert_allclose(ours[:, place], theirs, atol=2e-5)
        assert np.abs(theirs).max() > 1e-3


def test_an_image_of_which_nothing_is_left_is_blank() -> None:
    images, gone = torch.randn((1, 3, 6, 9)), torch.ones((1, 6, 9), dtype=torch.bool)
    assert impute(images, gone, noise=0).abs().max() == 0
    assert torch.equal(impute(images, ~gone), images)
