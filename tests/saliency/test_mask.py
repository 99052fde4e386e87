"""Mask against its descent written out for one image and one objective, with SciPy's blur and Adam by its formulas."""

import copy
from functools import cache
from math import ceil

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from finer_ray.models import Classifier
from finer_ray.saliency import AGGREGATIONS, MapSpec, Mask, Rise, SaliencySpec, explain
from finer_ray.saliency.mask import blur, circle_probabilities, circles, first_masks, variation
from tests.saliency.models import build, images
from tests.saliency.planted import HOT, Planted

FEW = Mask(steps=3, seed=4, tv=0.3, l1=0.01)


def scipy_blur(image: np.ndarray, deviation: float) -> np.ndarray:
    """By the weights of the pixels inside the image alone."""
    options = {"sigma": deviation, "mode": "constant", "truncate": 40.0}
    return gaussian_filter(image, **options) / gaussian_filter(np.ones_like(image), **options)


@pytest.mark.parametrize("size", [(64, 96), (9, 5)])
def test_blur_is_scipys(size: tuple[int, int]) -> None:
    image = torch.rand((2, 3, *size), dtype=torch.float64)
    expected = np.stack([[scipy_blur(channel, 5.0) for channel in one] for one in image.numpy()])
    np.testing.assert_allclose(blur(image, 5.0), expected, rtol=1e-12)
    assert torch.equal(blur(image, 0.0), image)


def test_circles_go_from_nothing_to_everything() -> None:
    masks = circles((64, 96), Mask())
    assert (masks[0] == 1).all()
    assert (masks[-1] < 1e-12).all()
    assert (masks.diff(dim=0) <= 1e-12).all()
    y, x = np.ogrid[-32:32, -48:48]
    for place in (1, 4):
        inside = (np.sqrt(y**2 + x**2) < 5 * place).astype(float)
        np.testing.assert_allclose(masks[place], 1 - scipy_blur(inside, 10.0), atol=1e-12)


def test_variation_by_hand() -> None:
    low = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    assert variation(low, 2.0).item() == pytest.approx((0.5**2 + 1) + 0.5**2 + 0 + 0)
    assert variation(low, 3.0).item() == pytest.approx(1.25**1.5 + 0.5**3)
    flat = torch.ones((1, 3, 3), requires_grad=True)
    (slope,) = torch.autograd.grad(variation(flat, 1.0), flat)
    assert (slope == 0).all()


@cache
def spreads(height: int, width: int, deviation: float) -> Tensor:
    """What the blur makes of each pixel alone, (height * width, height * width)."""
    ones = np.eye(height * width).reshape(-1, height, width)
    return torch.from_numpy(np.stack([scipy_blur(one, deviation) for one in ones])).flatten(1)


def by_hand(model: Classifier, image: Tensor, classes: list[int], weights: list[float], settings: Mask) -> Tensor:
    """1 - m of one image in full size."""
    height, width = image.shape[2:]
    cells = (ceil(height / settings.scale), ceil(width / settings.scale))

    def score(masked: Tensor) -> Tensor:
        chances = model.head(model.split(masked)) if model.head.normalize else model.split(masked)
        return sum(a * chances.softmax(1)[0, c] for a, c in zip(weights, classes, strict=True))  # type: ignore[return-value]

    # The smallest circle that does it.
    dark = torch.from_numpy(np.stack([scipy_blur(channel, settings.blur) for channel in image[0].numpy()]))[None]
    before, after = score(image), score(dark)
    y, x = np.ogrid[-(height // 2) : height - height // 2, -(width // 2) : width - width // 2]
    for radius in range(0, 1000, 5):
        circle = 1 - scipy_blur((np.sqrt(y**2 + x**2) < radius).astype(float), settings.blur)
        mask = torch.from_numpy(circle)
        if score(image * mask + dark * (1 - mask)) <= after + 0.01 * (before - after).abs():
            break
    low = nn.functional.interpolate(mask[None, None], size=cells, mode="area")[0, 0]

    larger = nn.functional.interpolate(
        image, size=(height + settings.jitter, width + settings.jitter), mode="bilinear", align_corners=False
    )
    dark = torch.from_numpy(np.stack([scipy_blur(channel, settings.blur) for channel in larger[0].numpy()]))[None]
    spread = spreads(height, width, settings.smooth)

    def full(low: Tensor) -> Tensor:
        rows = [y * cells[0] // height for y in range(height)]
        columns = [x * cells[1] // width for x in range(width)]
        return (low[rows][:, columns].flatten() @ spread).reshape(height, width)

    first, second = torch.zeros_like(low), torch.zeros_like(low)
    for step, (down, right) in enumerate(settings.shifts(), 1):
        leaf = low.clone().requires_grad_()
        m = full(leaf)
        sharp, soft = (both[:, :, down : down + height, right : right + width] for both in (larger, dark))
        loss = score(m * sharp + (1 - m) * soft) + settings.l1 * (1 - leaf).abs().sum()
        for i in range(cells[0]):
            for j in range(cells[1]):
                below = leaf[i + 1, j] - leaf[i, j] if i + 1 < cells[0] else leaf.new_zeros(())
                beside = leaf[i, j + 1] - leaf[i, j] if j + 1 < cells[1] else leaf.new_zeros(())
                loss = loss + settings.tv * (below**2 + beside**2 + 1e-300) ** (settings.beta / 2)
        (slope,) = torch.autograd.grad(loss, leaf)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        low = low - settings.rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        low = low.clamp(0, 1)
    return 1 - full(low)


@pytest.fixture(scope="module")
def small() -> Classifier:
    """A CNN; the images below are no multiple of the mask's cells."""
    return build("resnet")


def test_is_the_descent_written_out(small: Classifier) -> None:
    x = images(small, 2)[:, :, :30, :44].contiguous()
    gamma = 0.8
    maps = (MapSpec("m", "mask"), MapSpec("f", "mask", gamma), MapSpec("o", "mask", gamma, "mean_after_relu"))
    found = explain(small, x, SaliencySpec(maps, references=2, settings={"mask": FEW}))
    for row in range(2):
        classes = [int(found.target[row]), *found.references[row].tolist()]

        def expected(weights: list[float], row: int = row, classes: list[int] = classes) -> Tensor:
            whole = by_hand(small, x[row : row + 1], classes, weights, FEW)
            return nn.functional.adaptive_avg_pool2d(whole[None], found.maps.shape[2:])[0]

        for place, weights in ((0, [1.0, 0.0, 0.0]), (1, [1.0, -gamma / 2, -gamma / 2])):
            torch.testing.assert_close(found.maps[row, place], expected(weights), rtol=1e-6, atol=1e-8)
        pairs = (expected([1.0, -gamma, 0.0]) + expected([1.0, 0.0, -gamma])) / 2
        torch.testing.assert_close(found.maps[row, 2], pairs, rtol=1e-6, atol=1e-8)


def test_where_blurring_helps_the_objective_nothing_is_deleted_at_first() -> None:
    model = Planted()
    x = model.images()
    classes = torch.tensor([[0, 1], [0, 1]])
    starts = circle_probabilities(model, x, classes, Mask(), 2**30)
    against = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    assert (first_masks(starts, against, x, Mask()) == 1).all()
    assert first_masks(starts, 1 - against, x, Mask()).amin() < 0.5
    # Circle by circle, and the last is the blurred image.
    torch.testing.assert_close(starts[:, -1, 0], model(blur(x, 10.0)).softmax(1)[:, 0])
    torch.testing.assert_close(starts[:, 0, 0], model(x).softmax(1)[:, 0])


@pytest.mark.parametrize("name", ["resnet", "vit", "clip-tok"])
def test_neither_batch_nor_memory_matters(name: str) -> None:
    model = build(name)
    x = images(model, 3)
    maps = (MapSpec("m", "mask"), *(MapSpec(a, "mask", 0.6, a) for a in AGGREGATIONS))
    whole = explain(model, x, SaliencySpec(maps, settings={"mask": FEW})).maps
    assert (whole >= 0).all()
    assert (whole <= 1).all()
    for position in range(3):
        alone = explain(model, x[position : position + 1], SaliencySpec(maps, settings={"mask": FEW}, memory=1)).maps
        torch.testing.assert_close(alone[0], whole[position], rtol=1e-6, atol=1e-8)


def test_seed_decides_and_nothing_is_left_behind(small: Classifier) -> None:
    x = images(small, 1)
    small.zero_grad()  # other tests' gradients
    spec = SaliencySpec((MapSpec("m", "mask"),), settings={"mask": FEW})
    first = explain(small, x, spec).maps
    torch.manual_seed(99)
    with torch.inference_mode():
        inside = explain(small, x.clone(), spec).maps
    assert torch.equal(first, inside)
    assert not first.requires_grad
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in small.parameters())
    other = explain(
        small, x, SaliencySpec((MapSpec("m", "mask"),), settings={"mask": FEW.model_copy(update={"seed": 5})})
    ).maps
    assert not torch.equal(first, other)


def test_under_half_precision_it_stays_whole(small: Classifier) -> None:
    model = copy.deepcopy(small).float()
    x = images(small, 1).float()
    spec = SaliencySpec((MapSpec("m", "mask"), MapSpec("r", "rise")), settings={"mask": FEW, "rise": Rise(masks=20)})
    plain = explain(model, x, spec)
    with torch.autocast("cpu", torch.bfloat16):
        half = explain(model, x, spec, plain.target, plain.references)
    assert half.maps.dtype == torch.float32
    torch.testing.assert_close(half.maps, plain.maps, atol=0.05, rtol=0.05)


def test_finds_what_the_model_looks_at() -> None:
    model = Planted()
    x = model.images()
    settings = Mask(steps=150, l1=1e-3, scale=4, smooth=2.0, blur=4.0)
    maps = (MapSpec("m", "mask"), MapSpec("against", "mask", 1.0, reverse=True))
    found = explain(
        model, x, SaliencySpec(maps, settings={"mask": settings}, selection=(1,)), torch.tensor([0, 0])
    ).maps
    flat = found.flatten(2)
    assert flat[:, 0].argmax(1).tolist() == [HOT, HOT]
    others = flat[:, 0, [place for place in range(16) if place != HOT]]
    assert (flat[:, 0, HOT] > 0.5).all()
    assert (others < 0.3).all()
    # Blurring raises the second class against the first: nothing to take away.
    assert (flat[:, 1] < 0.05).all()
