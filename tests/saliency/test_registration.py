"""Registration: one formula for arrays and tensors, held to torch's own, and to what it means."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from finer_ray.images.transform import Transform
from finer_ray.saliency import SaliencySpec
from finer_ray.saliency.registration import Registration, draw, pixels, pool
from finer_ray.saliency.rise import Rise, rise_basis
from finer_ray.saliency.scorecam import masked_logits
from finer_ray.saliency.spec import MapSpec
from finer_ray.store.placing import on_photo, to_unit

sides = st.integers(1, 90)
cells = st.integers(1, 12)
places = st.floats(-60, 60)
strides = st.floats(1, 40)


def maps_of(grid: tuple[int, int], count: int = 2) -> torch.Tensor:
    return torch.rand((count, 1, *grid), generator=torch.Generator().manual_seed(sum(grid)))


@given(st.tuples(sides, sides), st.tuples(cells, cells))
def test_stretched_is_torch_s_bilinear(size: tuple[int, int], grid: tuple[int, int]) -> None:
    maps = maps_of(grid)
    theirs = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(draw(maps, size, None), theirs, atol=2e-6, rtol=0)
    given_ = Registration.stretched(size, grid)
    np.testing.assert_array_equal(draw(maps.numpy(), size, given_), draw(maps, size, given_).numpy())


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.tuples(cells, cells))
def test_an_image_of_another_size_shows_the_same(
    size: tuple[int, int], seen: tuple[int, int], grid: tuple[int, int]
) -> None:
    """Stretched, what a map looks like does not depend on the input's size."""
    maps = maps_of(grid)
    torch.testing.assert_close(draw(maps, size, None, seen), draw(maps, size, None), atol=1e-5, rtol=0)


@given(st.tuples(places, places), st.tuples(strides, strides), st.tuples(cells, cells))
def test_a_cell_s_value_stands_at_its_centre(
    offset: tuple[float, float], stride: tuple[float, float], grid: tuple[int, int]
) -> None:
    maps = maps_of(grid).double().numpy()
    centres = tuple(o + s * np.arange(n) for o, s, n in zip(offset, stride, grid, strict=True))
    np.testing.assert_allclose(Registration(offset, stride).at(maps, centres), maps, atol=1e-9)
    beyond = tuple(np.array([c[0] - 7.0, c[-1] + 7.0]) for c in centres)
    np.testing.assert_array_equal(Registration(offset, stride).at(maps, beyond), maps[..., [0, -1], :][..., [0, -1]])


@given(st.tuples(places, places), st.tuples(strides, strides), st.integers(-30, 30), st.integers(-30, 30))
def test_shifted_centres_shift_what_is_drawn(
    offset: tuple[float, float], stride: tuple[float, float], down: int, right: int
) -> None:
    maps = maps_of((3, 5)).double().numpy()
    rows, columns = pixels((40, 30), (40, 30))
    moved = Registration((offset[0] + down, offset[1] + right), stride).at(maps, (rows + down, columns + right))
    np.testing.assert_allclose(moved, Registration(offset, stride).at(maps, (rows, columns)), atol=1e-9)


@given(st.tuples(places, places), st.tuples(strides, strides), st.tuples(sides, sides), st.tuples(cells, cells))
def test_drawing_and_pooling_keep_the_range_and_what_is_flat(
    offset: tuple[float, float], stride: tuple[float, float], size: tuple[int, int], grid: tuple[int, int]
) -> None:
    here, maps = Registration(offset, stride), maps_of(grid)
    drawn = draw(maps, size, here)
    assert drawn.shape == (2, 1, *size)
    assert maps.amin() - 1e-6 <= drawn.amin()
    assert drawn.amax() <= maps.amax() + 1e-6
    # To the last bit: ties must stay ties, and zero zero.
    assert (draw(torch.full_like(maps, 0.3), size, here) == torch.tensor(0.3)).all()
    pooled = pool(drawn, grid, here)
    assert pooled.shape == maps.shape
    assert drawn.amin() - 1e-6 <= pooled.amin()
    assert pooled.amax() <= drawn.amax() + 1e-6


@given(st.tuples(sides, sides), st.tuples(cells, cells))
def test_stretched_pooling_is_torch_s(size: tuple[int, int], grid: tuple[int, int]) -> None:
    values = maps_of(size)
    theirs = functional.adaptive_avg_pool2d(values, grid)
    torch.testing.assert_close(pool(values, grid, None), theirs, atol=1e-6, rtol=0)


def test_nothing_of_one_cell_reaches_beyond_its_neighbours() -> None:
    maps = torch.zeros((1, 1, 5, 5))
    maps[0, 0, 0, 0] = torch.nan
    drawn = draw(maps, (50, 50), Registration((5.0, 5.0), (10.0, 10.0)))
    assert drawn[..., :15, :15].isnan().all()
    assert not drawn[..., 15:, :].isnan().any()
    assert not drawn[..., :, 15:].isnan().any()


@pytest.mark.parametrize("offset", [-9.0, 0.0, 20.0])
def test_pooled_and_drawn_a_spot_stays_where_it_is(offset: float) -> None:
    """What stretching gets wrong: a spot at a cell's centre, pooled and drawn, has its maximum there."""
    here, size = Registration((offset, offset), (32.0, 32.0)), (224, 224)
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    for cell in (1, 3, 5):
        centre = offset + 32 * cell
        spot = torch.exp(-((y - centre) ** 2 + (x - centre) ** 2) / (2 * 10**2))[None]
        drawn = draw(pool(spot, (7, 7), here), size, here)[0]
        peak = divmod(int(drawn.argmax()), 224)
        assert max(abs(place - centre) for place in peak) <= 0.5


class LookingAt:
    """A model whose logits are the brightness of some pixels."""

    activation = "softmax"

    def __init__(self, places: torch.Tensor) -> None:
        self.places, self.class_count = places, len(places)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, self.places[:, 0], self.places[:, 1]]


def test_rise_finds_a_pixel_where_it_is() -> None:
    """A model that looks at one pixel: its map, drawn as it is registered, is brightest there; stretched it is not."""
    places = torch.tensor([[80, 144], [0, 0]])
    images, classes = torch.full((1, 3, 224, 224), 5.0), torch.tensor([[0, 1]])
    here = Registration((-16.0, -16.0), (32.0, 32.0))
    args = (LookingAt(places), images, classes, (7, 7), Rise(masks=600), 2**26)
    maps = rise_basis(*args, here)[:, :1]
    peak = divmod(int(draw(maps, (224, 224), here).argmax()), 224)
    assert max(abs(a - b) for a, b in zip(peak, (80, 144), strict=True)) <= 8
    wrong = divmod(int(draw(maps, (224, 224), None).argmax()), 224)
    assert max(abs(a - b) for a, b in zip(wrong, (80, 144), strict=True)) >= 24


def test_scorecam_s_masks_let_through_what_the_channel_sees() -> None:
    activation = torch.zeros((1, 1, 7, 7))
    activation[0, 0, 3, 2] = 1.0
    seen = []

    def logits(masked: torch.Tensor) -> torch.Tensor:
        seen.append(masked[0, 0])
        return torch.zeros((len(masked), 2))

    here = Registration((-9.0, 20.0), (32.0, 32.0))
    for registration in (here, None):
        masked_logits(logits, torch.ones(1, 3, 224, 224), activation, torch.tensor([[0]]), 2**26, registration)
    assert divmod(int(seen[0].argmax()), 224) == (96 - 9, 64 + 20)
    theirs = functional.interpolate(activation, size=(224, 224), mode="bilinear", align_corners=True)[0, 0]
    torch.testing.assert_close(seen[1], theirs / theirs.max(), atol=1e-6, rtol=0)


def test_the_spec_s_default_is_that_of_other_libraries() -> None:
    assert SaliencySpec((MapSpec("gradcam"),)).registration is None


@settings(max_examples=30)
@given(
    st.sampled_from(["shortest", "squash"]),
    st.floats(0.7, 1.0),
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
)
def test_on_the_photo_a_map_lies_where_the_model_s_view_has_it(
    resize: str, crop_pct: float, photo: tuple[int, int]
) -> None:
    """Both ways on a map that is a plane: what it is at a pixel of the photo is what it is where that pixel went."""
    transform = Transform((32, 32), resize, crop_pct)  # type: ignore[arg-type]
    width, height = photo
    here = Registration((-1000.0, -1000.0), (2000.0, 2000.0))
    # Of these corners the value at (y, x) is y + 100 x, pixels of the input.
    corners = [[float(y + 100 * x) for x in (-1000, 1000)] for y in (-1000, 1000)]
    [placed] = on_photo(np.array([corners]), [(width, height)], transform, here)
    assert placed.shape == (height, width)
    x1, y1, x2, y2 = transform.view(width, height)
    rows, columns = ((np.arange(side) + 0.5) / side for side in (height, width))
    y, x = 32 * (rows - y1) / (y2 - y1) - 0.5, 32 * (columns - x1) / (x2 - x1) - 0.5
    expected = y[:, None] + 100 * x
    inside = ((rows >= y1) & (rows < y2))[:, None] & ((columns >= x1) & (columns < x2))
    np.testing.assert_allclose(placed[inside], expected[inside], atol=1e-6)
    assert np.isnan(placed[~inside]).all()


def test_an_uncropped_photo_of_the_input_s_size_shows_the_drawn_map_itself() -> None:
    maps = maps_of((4, 4)).numpy()[:, 0]
    here = Registration((3.0, 5.0), (16.0, 16.0))
    for registration in (here, None):
        placed = on_photo(maps, [(64, 64)] * 2, Transform((64, 64)), registration)
        np.testing.assert_allclose(np.stack(placed), draw(maps, (64, 64), registration), atol=1e-7)


def test_to_unit() -> None:
    maps = np.array([[[0.0, 2.0]], [[0.0, 0.0]], [[np.nan, np.nan]], [[np.nan, 4.0]]], np.float32)
    expected = np.array([[[0.0, 1.0]], [[0.0, 0.0]], [[np.nan, np.nan]], [[np.nan, 1.0]]], np.float32)
    found = to_unit(maps)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


@given(st.floats(0, 1), places, strides, sides, cells)
def test_shares_of_the_input_are_shares_of_a_map_that_is_read_as_stretched(
    share: float, offset: float, stride: float, side: int, count: int
) -> None:
    """What `resample` does with them: place u of a map is its cell u * cells - 1/2."""
    here = replace(Registration.stretched((side, side), (count, count)))
    assert here.shares(0, share, side, count) == pytest.approx(share, abs=1e-9)
    here = Registration((offset, offset), (stride, stride))
    cell = (share * side - 0.5 - offset) / stride
    assert here.shares(0, share, side, count) * count - 0.5 == pytest.approx(cell, abs=1e-6)
