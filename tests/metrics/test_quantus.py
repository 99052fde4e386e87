"""Against Quantus: deletion and insertion by its pixel flipping (Bach et al. 2015), the same curves step by step; and
metrics that ask no model."""

from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

from finer_ray.metrics.deletion import area, step_counts
from finer_ray.metrics.localisation import localisation
from finer_ray.metrics.perturbation import masked, ranks, replacing
from finer_ray.metrics.rank_accuracy import rank_accuracy
from finer_ray.metrics.sparsity import gini

SIZE, STEPS = (12, 16), 12
PIXELS = SIZE[0] * SIZE[1]


class Net(nn.Module):
    """A small CNN of five classes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)
            )
            for parameter in self.parameters():
                parameter.data.mul_(3)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, 5)."""
        logits: Tensor = self.layers(images)
        return logits


MODEL = Net().eval()
GENERATOR = torch.Generator().manual_seed(8)
IMAGES = torch.randn((6, 3, *SIZE), generator=GENERATOR)
# In the image's own size and without ties, which Quantus breaks as its sort happens to; ours go by position.
MAPS = torch.rand((6, 2, *SIZE), generator=GENERATOR)
with torch.no_grad():
    TARGETS = MODEL(IMAGES).argmax(1)


def probabilities(images: Tensor, owner: Tensor) -> Tensor:
    return MODEL(images).softmax(1).gather(1, TARGETS[owner, None])


def flipped(images: Tensor, heat: Tensor, **options: Any) -> np.ndarray:
    """Quantus's curves, (B, STEPS): a pixel is three features of the same saliency."""
    metric = quantus.PixelFlipping(
        features_in_step=3 * PIXELS // STEPS, normalise=False, abs=False, disable_warnings=True, **options
    )
    curves = metric(
        model=MODEL,
        x_batch=images.numpy(),
        y_batch=TARGETS.numpy(),
        a_batch=heat[:, None].numpy(),
        softmax=True,
        channel_first=True,
        device="cpu",
    )
    return np.array(curves)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("fill", [0.0, -1.5])
def test_deletion(place: int, fill: float) -> None:
    counts, order = [0, *step_counts(STEPS, PIXELS)], ranks(MAPS, SIZE)
    ours = masked(probabilities, IMAGES, replacing(IMAGES, torch.full((1, 3, 1, 1), fill)), order, counts, 2**30)[
        :, place, :, 0
    ]
    before = probabilities(IMAGES, torch.arange(6)).detach().numpy()
    theirs = np.concatenate([before, flipped(IMAGES, MAPS[:, place], perturb_baseline=fill)], axis=1)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(area(ours), np.trapezoid(theirs, dx=1 / STEPS, axis=1), atol=1e-6)
    assert ours.std() > 0.05
    assert (MAPS.flatten(2).sort(2).values.diff(dim=2) > 0).all()


def test_insertion() -> None:
    """Quantus has none of its own: flipping takes the blurred image's pixels for the photo's."""
    start = nn.functional.avg_pool2d(IMAGES, 5, stride=1, padding=2)
    photos = IMAGES.flatten(1).numpy()

    def reveal(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        changed = arr.copy()
        np.put_along_axis(changed, indices, np.take_along_axis(photos, indices, 1), 1)
        return changed

    counts, order = [0, *step_counts(STEPS, PIXELS)], ranks(MAPS, SIZE)
    ours = masked(probabilities, start, replacing(start, IMAGES), order, counts, 2**30)[:, 0, :, 0]
    empty = probabilities(start, torch.arange(6)).detach().numpy()
    theirs = np.concatenate([empty, flipped(start, MAPS[:, 0], perturb_func=reveal)], axis=1)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(area(ours), np.trapezoid(theirs, dx=1 / STEPS, axis=1), atol=1e-6)
    assert ours.std() > 0.05


def alone(metric: Any, heat: Tensor, region: Tensor | None = None) -> np.ndarray:
    """What a metric that asks no model gives maps (n, H, W) of images of their own size: no interpolation."""
    regions = None if region is None else region[:, None].numpy()
    found = metric(
        model=None, x_batch=IMAGES.numpy(), y_batch=TARGETS.numpy(), a_batch=heat[:, None].numpy(), s_batch=regions
    )
    return np.array(found)


PLAIN: dict[str, Any] = {"normalise": False, "abs": False, "disable_warnings": True}


def test_sparseness() -> None:
    """It adds 1e-7 to each value."""
    found = gini(MAPS)
    for place in (0, 1):
        expected = alone(quantus.Sparseness(**{**PLAIN, "abs": True}), MAPS[:, place])
        np.testing.assert_allclose(found[:, place], expected, atol=1e-6)
    assert found.std() > 1e-3


def test_rank_and_mass_accuracy() -> None:
    region = torch.zeros((6, *SIZE), dtype=torch.bool)
    for image in range(6):
        region[image, image : 6 + image, 2 : 5 + image] = True
    for place in (0, 1):
        heat = MAPS[:, place]
        for metric, ours in (
            (quantus.RelevanceRankAccuracy, rank_accuracy),
            (quantus.RelevanceMassAccuracy, localisation),
        ):
            found = ours(heat[:, None], region)[:, 0]
            np.testing.assert_allclose(found, alone(metric(**PLAIN), heat, region), atol=1e-6)
            assert found.std() > 0.01
