"""The transform against those of timm and open_clip, pixel by pixel."""

import json
from dataclasses import asdict

import numpy as np
import open_clip
import pytest
import timm.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from finer_ray.images.transform import Transform
from finer_ray.models import openclip_backbone, timm_backbone

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
    st.sampled_from(["center", "border"]),
)
def test_is_timms(
    width: int, height: int, size: tuple[int, int], crop_pct: float, interpolation: str, mode: str
) -> None:
    if max(width, height) > 20 * min(width, height):
        return
    # Without normalisation, whose mean is the colour of borders.
    theirs = timm.data.create_transform(
        (3, *size),
        crop_pct=crop_pct,
        interpolation=interpolation,
        crop_mode=mode,
        mean=(0.2, 0.4, 0.6),
        normalize=False,
    )
    ours = Transform(size, timm_backbone.MODES[mode], crop_pct, interpolation, fill=(51, 102, 153))  # type: ignore[arg-type]
    image = picture(width, height)
    np.testing.assert_array_equal(ours.apply(image), theirs(image).permute(1, 2, 0).numpy())


@settings(max_examples=100, deadline=None)
@given(SIDES, SIDES, st.sampled_from([(64, 64), (64, 48)]), st.sampled_from(["shortest", "squash", "longest"]))
def test_is_open_clips(width: int, height: int, size: tuple[int, int], resize: str) -> None:
    if max(width, height) > 20 * min(width, height):
        return
    theirs = open_clip.image_transform(size, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize)
    ours = Transform(size, openclip_backbone.MODES[resize])  # type: ignore[arg-type]
    image = picture(width, height)
    np.testing.assert_array_equal(ours.apply(image), pixels(theirs(image)))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(8, 200),
    st.integers(8, 200),
    st.sampled_from(
        [
            Transform((32, 32), "shortest", 0.875),
            Transform((32, 40), "pad"),
            Transform((48, 48), "native", multiple=(8, 16)),
        ]
    ),
    st.data(),
)
def test_a_box_and_the_mask_of_it_are_one_region(
    width: int, height: int, transform: Transform, data: st.DataObject
) -> None:
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
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
        Transform((32, 48), "pad"),
        Transform((32, 32), "native", multiple=(8, 4)),
    ],
)
def test_the_view_is_the_box_that_fills_the_result(transform: Transform, size: tuple[int, int]) -> None:
    """The box of the view covers every pixel, and one smaller by a pixel of the result does not."""
    width, height = size
    x1, y1, x2, y2 = transform.view(width, height)
    box = (x1 * width, y1 * height, x2 * width, y2 * height)
    assert transform.apply_box(box, width, height).all()
    assert transform.view_box(width, height) == box
    rows, columns = transform.shape(width, height)
    step_x, step_y = (x2 - x1) * width / columns, (y2 - y1) * height / rows
    inner = (box[0] + step_x, box[1] + step_y, box[2] - step_x, box[3] - step_y)
    expected = np.zeros((rows, columns), bool)
    expected[1:-1, 1:-1] = True
    np.testing.assert_array_equal(transform.apply_box(inner, width, height), expected)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([(14, 14), (16, 16), (32, 32), (16, 32)]),
    st.sampled_from([(224, 224), (500, 500), (300, 400), (10, 10)]),
)
def test_native_keeps_the_aspect(width: int, height: int, multiple: tuple[int, int], bound: tuple[int, int]) -> None:
    transform = Transform(bound, "native").in_multiples(multiple)
    shape = transform.shape(width, height)
    scale = min(1, transform.size[0] / height, transform.size[1] / width)
    for side, photo, step, most in zip(shape, (height, width), multiple, transform.size, strict=True):
        assert side % step == 0
        # The nearest multiple, and a patch at least.
        assert side == step or abs(side - photo * scale) <= step / 2
        assert step <= side <= max(step, most)
    assert transform.view_box(width, height) == (0, 0, width, height)
    image = picture(width, height)
    resized = image.resize(shape[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(transform.apply(image), np.asarray(resized))
    assert transform.apply_mask(np.ones((height, width), bool)).all()
    # What a fast JPEG is read as: the shape is that of the photo.
    half = image.reduce(2)
    assert transform.apply(half, (width, height)).shape[:2] == shape


def test_padding_shows_the_whole_photo_and_nothing_else_as_its_own() -> None:
    transform = Transform((40, 40), "pad", fill=(10, 20, 30))
    made = transform.apply(Image.new("RGB", (100, 50), "white"))
    assert (made[10:30] == 255).all()
    assert (made[:10] == (10, 20, 30)).all()
    assert (made[30:] == (10, 20, 30)).all()
    assert transform.view_box(100, 50) == (0, -25, 100, 75)
    region = transform.apply_mask(np.ones((50, 100), bool))
    assert region[10:30].all()
    assert not region[:10].any()
    np.testing.assert_array_equal(region, transform.apply_box((0, 0, 100, 50), 100, 50))
    # As a manifest holds it.
    again = Transform(**json.loads(json.dumps(asdict(transform))))
    np.testing.assert_array_equal(again.apply(Image.new("RGB", (100, 50), "white")), made)


def test_keys_of_the_older_modes_are_as_they_ever_were() -> None:
    """They go into models' fingerprints, by which an export knows its own model again."""
    assert Transform((32, 32), "squash", fill=(1, 2, 3)).key == (
        "Transform(size=(32, 32), resize='squash', crop_pct=1.0, interpolation='bicubic', mean=(0.5, 0.5, 0.5), "
        "std=(0.5, 0.5, 0.5))"
    )
    keys = {
        Transform((32, 32), "pad", fill=(1, 2, 3)).key,
        Transform((32, 32), "pad").key,
        Transform((32, 32), "native", multiple=(16, 16)).key,
        Transform((32, 32), "native", multiple=(8, 8)).key,
    }
    assert len(keys) == 4
