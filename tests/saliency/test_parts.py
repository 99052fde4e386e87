"""Parts: a cell shows the part of whose pixels it holds the largest share."""

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from finer_ray.saliency.parts import PartGrid, cell_parts
from finer_ray.saliency.registration import Registration, pool

Ids = NDArray[np.uint8]
masks = st.tuples(st.integers(1, 24), st.integers(1, 24)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 0, 1, 2, 7, 255]))
)
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


def by_hand(ids: Ids, grid: tuple[int, int]) -> Ids:
    """Of a stretched grid, in whole numbers: cell i of h has rows floor(i H / h) to ceil((i + 1) H / h)."""
    found = np.zeros(grid, np.uint8)
    (height, width), (h, w) = ids.shape, grid
    for y in range(h):
        for x in range(w):
            rows, columns = (
                slice(i * side // n, -(-(i + 1) * side // n)) for i, side, n in ((y, height, h), (x, width, w))
            )
            inside = ids[rows, columns]
            shares = {
                part: Fraction(int((inside == part).sum()), int((ids == part).sum()))
                for part in np.unique(inside).tolist()
                if part
            }
            found[y, x] = min(shares, key=lambda part: (-shares[part], part), default=0)
    return found


@given(masks, grids)
def test_is_the_largest_share_of_a_part(ids: Ids, grid: tuple[int, int]) -> None:
    np.testing.assert_array_equal(cell_parts(ids, grid, None), by_hand(ids, grid))


@given(masks, grids, st.tuples(st.floats(-20, 20), st.floats(-20, 20)), st.tuples(st.floats(1, 12), st.floats(1, 12)))
def test_cells_have_the_pixels_that_pooling_gives_them(
    ids: Ids, grid: tuple[int, int], offset: tuple[float, float], stride: tuple[float, float]
) -> None:
    here = Registration(offset, stride)
    found = cell_parts(ids, grid, here)
    parts = [part for part in np.unique(ids).tolist() if part]
    every = torch.stack([torch.from_numpy(ids == part).double() for part in parts]) if parts else torch.zeros(0)
    shares = dict(zip(parts, pool(every, grid, here), strict=True)) if parts else {}
    totals = {part: int((ids == part).sum()) for part in parts}
    for y in range(grid[0]):
        for x in range(grid[1]):
            here_ = {part: float(share[y, x]) / totals[part] for part, share in shares.items()}
            best = max(here_.values(), default=0.0)
            assert (found[y, x] == 0) == (best == 0)
            assert not found[y, x] or here_[int(found[y, x])] >= best * (1 - 1e-9)


def test_an_eye_ring_wins_over_the_head_around_it() -> None:
    ids = np.zeros((32, 32), np.uint8)
    ids[4:28, 4:28] = 1
    ids[11:14, 11:14] = 2
    found = cell_parts(ids, (4, 4), Registration((3.5, 3.5), (8.0, 8.0)))
    assert found.tolist() == [[1, 1, 1, 1], [1, 2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    # Where the cells lie elsewhere, another one shows it.
    moved = cell_parts(ids, (4, 4), Registration((11.5, 11.5), (8.0, 8.0)))
    assert moved[0, 0] == 2
    assert (moved == 2).sum() == 1


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([None, Registration((7.5, 7.5), (16.0, 16.0))]))
def test_a_smaller_image_has_a_smaller_grid(h: int, w: int, registration: Any) -> None:
    """Patches of 16 pixels, of an input of at most 96 by 96."""
    ids = np.random.default_rng(h + 7 * w).integers(0, 4, (16 * h, 16 * w), dtype=np.uint8)
    found = PartGrid((6, 6), (96, 96), registration)(ids)
    np.testing.assert_array_equal(found[:h, :w], cell_parts(ids, (h, w), registration))
    assert not found[h:].any()
    assert not found[:, w:].any()
