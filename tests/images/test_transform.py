"""The transform against those of timm and open_clip, pixel by pixel."""

import numpy as np
import open_clip
import pytest
import timm.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from finer_ray.images.transform import Transform

SIDES = st.integers(1, 300)


def picture(width: int, height: int) -> Image.Image:
    seed = width * 1000 + height
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(tensor: Tensor) -> np.ndarray:
    """A library's result, before normalisation, as (h, w, 3) uint8."""
    return (tensor * 255).round().to(dtype=__import__("torch").uint8).permute(1, 2, 0).numpy()


@settings(max_examples=150, deadline=None)
@given(
    SIDES,
    SIDES,
    st.sampled_from([(64, 64), (48, 48), (64, 48), (33, 57)]),
    st.sampled_from([0.875, 0.9, 1.0]),
    st.sampled_from(["bicubic", "bilinear"]),
)
def test_is_timms(width: int, height: int, size: tuple[int, int], crop_pct: float, interpolation: str) -> None:
    if max(width, height) > 20 * min(width, height):
        return
    theirs = timm.data.create_transform(
        (3, *size), crop_pct=crop_pct, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )
    ours = Transform(size, "shortest", crop_pct, interpolation)  # type: ignore[arg-type]
    image = picture(width, height)
    np.testing.assert_array_equal(ours.apply(image), pixels(theirs(image)))


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(64, 64), (64, 48)]), st.sampled_from(["shortest", "squash"]))
def test_is_open_clips(width: int, height: int, size: tuple[int, int], resize: str) -> None:
    if max(width, height) > 20 * min(width, height):
        return
    theirs = open_clip.image_transform(size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize)
    ours = Transform(size, resize)  # type: ignore[arg-type]
    image = picture(width, height)
    np.testing.assert_array_equal(ours.apply(image), pixels(theirs(image)))


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 200), st.integers(8, 200), st.data())
def test_a_box_and_the_mask_of_it_are_one_region(width: int, height: int, data: st.DataObject) -> None:
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    transform = Transform((32, 32), "shortest", 0.875)
    box = transform.apply_box((x1, y1, x2, y2), width, height)
    # Nearest resampling rounds at ties, so that the border alone may differ.
    other = transform.apply_mask(mask)
    # One of them may be empty where the box is narrower than a pixel of the result.
    either = box | other
    assert (box != other).sum() <= 2 * (either.any(0).sum() + either.any(1).sum()) + 4


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_a_full_mask_stays_full(resize: str) -> None:
    transform = Transform((32, 40), resize, 0.9)  # type: ignore[arg-type]
    assert transform.apply_mask(np.ones((70, 90), bool)).all()
    assert transform.apply_box((0, 0, 90, 70), 90, 70).all()


@pytest.mark.parametrize("size", [(100, 60), (61, 100), (30, 30), (20, 200)])
@pytest.mark.parametrize(
    "transform",
    [
        Transform((32, 32)),
        Transform((32, 32), crop_pct=0.8),
        Transform((32, 48), crop_pct=0.9),
        Transform((32, 48), "squash", 0.7),
    ],
)
def test_the_view_is_the_box_that_fills_the_result(transform: Transform, size: tuple[int, int]) -> None:
    """The box of the view covers every pixel, and one smaller by a pixel of the result does not."""
    width, height = size
    x1, y1, x2, y2 = transform.view(width, height)
    box = (x1 * width, y1 * height, x2 * width, y2 * height)
    assert transform.apply_box(box, width, height).all()
    step_x, step_y = (x2 - x1) * width / transform.size[1], (y2 - y1) * height / transform.size[0]
    inner = (box[0] + step_x, box[1] + step_y, box[2] - step_x, box[3] - step_y)
    expected = np.zeros(transform.size, bool)
    expected[1:-1, 1:-1] = True
    np.testing.assert_array_equal(transform.apply_box(inner, width, height), expected)
