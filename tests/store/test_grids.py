"""Grids of maps: each map from its own, whatever else is in the array."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from finer_ray.store.grids import by_grid, own_grids, resized

SHAPES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=12)


def padded(shapes: list[tuple[int, int]]) -> torch.Tensor:
    """Random maps of these grids in arrays of the largest one; a row without cells holds no image."""
    maps = torch.full((len(shapes), 5, 7), torch.nan)
    for place, (height, width) in enumerate(shapes):
        maps[place, :height, :width] = torch.rand((height, width), generator=torch.Generator().manual_seed(place))
    return maps


@settings(max_examples=100, deadline=None)
@given(SHAPES)
def test_every_map_is_in_one_group_of_its_grid(shapes: list[tuple[int, int]]) -> None:
    maps = padded(shapes)
    whole = [(height, width) if height and width else (0, 0) for height, width in shapes]
    assert own_grids(maps.numpy()).tolist() == [list(shape) for shape in whole]
    found: dict[int, torch.Tensor] = {}
    for places, own in by_grid(maps):
        assert torch.isfinite(own).all()
        found |= dict(zip(places.tolist(), own, strict=True))
    assert {place: tuple(own.shape) for place, own in found.items()} == {
        place: shape for place, shape in enumerate(whole) if shape != (0, 0)
    }
    drawn = resized(maps, (9, 4))
    for place, shape in enumerate(whole):
        if shape == (0, 0):
            assert drawn[place].isnan().all()
            continue
        alone = functional.interpolate(found[place][None, None], size=(9, 4), mode="bilinear")[0, 0]
        assert torch.equal(drawn[place], alone)


def test_maps_that_fill_the_array_are_as_if_there_were_no_others() -> None:
    maps = padded([(5, 7)] * 3)
    assert torch.equal(resized(maps, (5, 7)), maps)
    together = functional.interpolate(maps[:, None], size=(40, 33), mode="bilinear")[:, 0]
    np.testing.assert_array_equal(resized(maps, (40, 33)), together)
