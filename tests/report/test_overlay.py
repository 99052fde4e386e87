"""Overlays: what a map's colours do to its photo. That the page draws the same is tested in its browser."""

import numpy as np
import pytest

from finer_ray.report.colours import colour_table
from finer_ray.report.overlay import STRENGTH, layer_table, levels, overlay

RANDOM = np.random.default_rng(3)
PHOTO = RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8)
HEAT = RANDOM.random((6, 9), dtype=np.float32) * 0.4


@pytest.mark.parametrize("colours", ["inferno", "viridis", "cividis"])
def test_the_photo_keeps_its_colours_where_there_is_no_heat(colours: str) -> None:
    heat = np.where(np.arange(9) < 4, 0, HEAT).astype(np.float32)
    drawn = overlay(PHOTO, heat, colours=colours)
    np.testing.assert_array_equal(drawn[:, :4], PHOTO[:, :4] / 255)
    np.testing.assert_array_equal(overlay(PHOTO, np.zeros_like(HEAT), colours=colours), PHOTO / 255)
    # The hottest place has the colour map's last colour, through which the photo is seen.
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    expected = (1 - STRENGTH) * PHOTO[y, x] / 255 + STRENGTH * colour_table(colours)[255] / 255
    np.testing.assert_allclose(drawn[y, x], expected, atol=1 / 255)


def test_hotter_is_more_opaque_up_to_the_strength() -> None:
    alpha = layer_table("heat", "inferno", 0.5)[:, 3]
    assert alpha[0] == 0
    assert (np.diff(alpha.astype(int)) >= 0).all()
    assert alpha.max() == 128
    np.testing.assert_array_equal(layer_table("hot", "inferno", 0.5)[::-1, 3].max(), 128)
    assert (layer_table("full", "inferno", 0.5)[:, 3] == 128).all()


def test_the_spotlight_leaves_colours_where_it_is_hot() -> None:
    photo = np.full((2, 2, 3), (200, 40, 0), dtype=np.uint8)
    lit = overlay(photo, np.array([[1, 0.7], [0, 0]], dtype=np.float32), mode="hot", strength=1)
    np.testing.assert_array_equal(lit[0], photo[0] / 255)
    assert lit[1, 1, 0] == lit[1, 1, 1] == lit[1, 1, 2] < 0.2
    dimmed = overlay(photo, np.array([[1, 0.7], [0, 0]], dtype=np.float32), mode="hot")
    assert (dimmed[1, 1] < 0.5).all()
    assert np.ptp(dimmed[1, 1]) < 0.5 * np.ptp(photo[1, 1] / 255)


def test_one_scale_for_several_maps() -> None:
    """A weak map on the scale of a strong one is pale, and one beyond the scale is cut."""
    weak = overlay(PHOTO, HEAT / 20, peak=float(HEAT.max()))
    assert np.abs(weak - PHOTO / 255).max() < 0.1
    np.testing.assert_array_equal(levels(np.array([-1, 0, 1, 2, 5], np.float32), 2), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(levels(np.array([-1, 0, 3], np.float32), 0), [0, 0, 0])
