"""Perturbation metrics against the procedure step by step, on single images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finer_ray.metrics.deletion import area, step_counts
from finer_ray.metrics.drops import confidence_drop, relative_drop
from finer_ray.metrics.perturbation import masked, ranks, replacing, where_ordered
from finer_ray.saliency.registration import draw

GENERATOR = torch.Generator().manual_seed(2)
IMAGES = torch.randn((3, 3, 8, 6), generator=GENERATOR)
MAPS = torch.rand((3, 2, 4, 3), generator=GENERATOR)
MAPS[1, 1] = 0.5
WEIGHT = torch.randn((5, 3 * 8 * 6), generator=GENERATOR) / 5
CLASSES = torch.tensor([[0, 1, 2], [4, 3, 2], [1, 0, 4]])


def model(images: Tensor) -> Tensor:
    return (images.flatten(1) @ WEIGHT.T).softmax(1)


def probabilities(images: Tensor, owner: Tensor) -> Tensor:
    return model(images).gather(1, CLASSES[owner])


def removed_one_by_one(image: Tensor, fill: Tensor, heat: Tensor, count: int) -> Tensor:
    """The image whose `count` most salient pixels are replaced, by a loop over them."""
    changed, values = image.clone(), heat.flatten().tolist()
    for pixel in sorted(range(len(values)), key=lambda place: (-values[place], place))[:count]:
        row, column = divmod(pixel, image.shape[2])
        changed[:, row, column] = fill.expand_as(image)[:, row, column]
    return changed


@pytest.mark.parametrize("memory", [1, 10_000, 2**30])
def test_replaced_pixels_are_the_most_salient_ones(memory: int) -> None:
    fill = torch.randn((1, 3, 1, 1), generator=torch.Generator().manual_seed(1))
    counts = [0, 1, 7, 20, 48]
    found = masked(probabilities, IMAGES, replacing(IMAGES, fill), ranks(MAPS, (8, 6)), counts, memory)
    assert found.shape == (3, 2, 5, 3)
    heat = draw(MAPS, (8, 6), None)
    for image in range(3):
        for place in range(2):
            for step, count in enumerate(counts):
                changed = removed_one_by_one(IMAGES[image], fill[0], heat[image, place], count)
                torch.testing.assert_close(found[image, place, step], model(changed[None])[0, CLASSES[image]])


def test_ranks_are_permutations_and_ties_go_by_position() -> None:
    order = ranks(MAPS, (8, 6))
    assert (order.flatten(2).sort(2).values == torch.arange(48)).all()
    assert order[1, 1].flatten().tolist() == list(range(48))
    torch.testing.assert_close(ranks(MAPS * 1000, (8, 6)), order)


def test_a_map_that_is_zero_everywhere_has_no_values() -> None:
    maps = torch.zeros((2, 3, 4, 5))
    maps[0, 0] = 0.5
    maps[1, 2, 3, 4] = 1e-30
    for shape in ((2, 3), (2, 3, 6), (2, 3, 2, 2)):
        found = where_ordered(torch.ones(shape), maps)
        assert found[0, 0].eq(1).all()
        assert found[1, 2].eq(1).all()
        assert found.isnan().sum() == 4 * torch.ones(shape)[0, 0].numel()


def test_areas_are_numpys() -> None:
    curve = torch.rand((4, 21), generator=GENERATOR, dtype=torch.float64)
    np.testing.assert_allclose(area(curve), np.trapezoid(curve, np.linspace(0, 1, 21), axis=1))
    # RISE's own: the sum without half of both ends, over the number of steps.
    rise = (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / 20
    np.testing.assert_allclose(area(curve), rise)


@settings(max_examples=50, deadline=None)
@given(steps=st.integers(1, 60), pixels=st.integers(1, 5000))
def test_steps_end_with_every_pixel(steps: int, pixels: int) -> None:
    counts = step_counts(steps, pixels)
    assert len(counts) == steps
    assert counts == sorted(counts)
    assert counts[-1] == pixels
    assert all(abs(count - pixels * (i + 1) / steps) <= 0.5 for i, count in enumerate(counts))


def test_drops_by_hand() -> None:
    before, after = torch.tensor([[0.8, 0.1, 0.05]]), torch.tensor([[0.5, 0.2, 0.01]])
    both = torch.tensor([[True, True]])
    assert relative_drop(before, after, both).item() == pytest.approx(0.3 - (-0.1 + 0.04) / 2)
    assert relative_drop(before, after, torch.tensor([[False, True]])).item() == pytest.approx(0.3 - 0.04)
    assert relative_drop(before, after, ~both).item() == pytest.approx(0.3)
    missing = torch.tensor([[0.8, torch.nan, 0.05]])
    assert relative_drop(missing, after, torch.tensor([[False, True]])).item() == pytest.approx(0.3 - 0.04)
    assert confidence_drop(before[:, 0], after[:, 0]).item() == pytest.approx(0.375)
    assert confidence_drop(torch.zeros(1), torch.zeros(1)).isnan().all()


def test_deleting_what_speaks_for_a_class_lowers_it_more_than_deleting_at_random() -> None:
    weight = torch.zeros(8, 6)
    weight[2:5, 1:4] = 1.0

    def score(images: Tensor, owner: Tensor) -> Tensor:
        total = (images.mean(1) * weight).sum((1, 2))
        return torch.stack([total, -total], dim=1).softmax(1)

    image = torch.ones((1, 3, 8, 6))
    noise = torch.rand((8, 6), generator=GENERATOR)
    maps = torch.stack([weight, noise])[None]
    counts = [0, *step_counts(12, 48)]
    curves = masked(score, image, replacing(image, torch.zeros(1, 3, 1, 1)), ranks(maps, (8, 6)), counts, 2**30)[..., 0]
    right, random = area(curves[0])
    assert right < random
    # Insertion is the same with image and fill in each other's place.
    back = masked(
        score, torch.zeros_like(image), replacing(torch.zeros_like(image), image), ranks(maps, (8, 6)), counts, 2**30
    )[..., 0]
    gained, chance = area(back[0])
    assert gained > chance
