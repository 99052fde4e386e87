"""Grids of maps: each map from its own, whatever else is in the array."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from finer_ray.saliency.registration import Registration, draw
from finer_ray.store.grids import by_grid, drawn, own_grids

SHAPES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=12)


def padded(shapes: list[tuple[int, int]]) -> NDArray[np.float32]:
    """Random maps of these grids in arrays of the largest one; a row without cells holds no image."""
    maps = np.full((len(shapes), 5, 7), np.nan, np.float32)
    for place, (height, width) in enumerate(shapes):
        maps[place, :height, :width] = np.random.default_rng(place).random((height, width))
    return maps


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.sampled_from([None, Registration((-3.0, 9.0), (16.0, 8.0))]))
def test_every_map_is_drawn_from_its_own_grid(shapes: list[tuple[int, int]], registration: Registration | None) -> None:
    maps = padded(shapes)
    whole = [(height, width) if height and width else (0, 0) for height, width in shapes]
    assert own_grids(maps).tolist() == [list(shape) for shape in whole]
    found: dict[int, NDArray[np.float32]] = {}
    for places, own in by_grid(maps):
        assert np.isfinite(own).all()
        found |= dict(zip(places.tolist(), own, strict=True))
    assert {place: own.shape for place, own in found.items()} == {
        place: shape for place, shape in enumerate(whole) if shape != (0, 0)
    }
    # 16 x 8 pixels a cell, and what is left over.
    inputs = np.array([(16 * height + height % 3, 8 * width) for height, width in whole]).reshape(-1, 2)
    images = drawn(maps, (9, 4), registration, inputs)
    for place, (height, _) in enumerate(whole):
        if not height:
            assert np.isnan(images[place]).all()
            continue
        np.testing.assert_array_equal(images[place], draw(found[place], (9, 4), registration, inputs[place].tolist()))


def test_maps_that_fill_the_array_are_as_if_there_were_no_others() -> None:
    maps = padded([(5, 7)] * 3)
    np.testing.assert_array_equal(drawn(maps, (5, 7), None, np.full((3, 2), (80, 56))), maps)
    together = functional.interpolate(torch.from_numpy(maps)[:, None], size=(40, 33), mode="bilinear")[:, 0]
    np.testing.assert_allclose(drawn(maps, (40, 33), None, np.full((3, 2), (40, 33))), together, atol=1e-6)
