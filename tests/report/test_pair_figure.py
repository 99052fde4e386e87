"""The picture of a pair: where its rings, its light and its close-ups lie. A whole one is drawn in tests/traits."""

import numpy as np
import pytest

from finer_ray.report.pair_figure import ENLARGED, centre, close_up, pair_figure, spotlight
from finer_ray.saliency.registration import Registration
from finer_ray.traits import Shown, Trait


def test_a_ring_lies_around_the_pixels_of_its_cell() -> None:
    here = Registration.stretched((32, 64), (4, 8))
    photo = np.zeros((ENLARGED * 32, ENLARGED * 64))
    # The cell of row 2, column 5 of 8 pixels each.
    photo[ENLARGED * 16 : ENLARGED * 24, ENLARGED * 40 : ENLARGED * 48] = 1
    down, across = (places.mean() for places in np.nonzero(photo))
    assert centre(Shown(0, 2 * 8 + 5, 1.0), 8, here) == pytest.approx((across, down))


def test_close_ups_are_squares_inside_the_photo() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(close_up(photo, (30, 20), 10), photo[15:25, 25:35])
    np.testing.assert_array_equal(close_up(photo, (1, 39), 10), photo[30:, :10])
    assert close_up(photo, (30, 20), 100).shape == (40, 40, 3)


def test_the_spotlight_leaves_colours_where_it_is_bright() -> None:
    photo = np.full((2, 2, 3), (200, 40, 0), dtype=np.uint8)
    lit = spotlight(photo, np.array([[1.0, 0.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(lit[0, 0], photo[0, 0] / 255)
    dark = lit[1, 1]
    assert dark[0] == dark[1] == dark[2] < 0.2


def test_without_a_trait_there_is_nothing_to_draw(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from finer_ray.errors import ExportError

    with pytest.raises(ExportError, match="no image of either class"):
        pair_figure(None, [Trait("shared", 0, 1, rank=1)], tmp_path / "none.png")  # type: ignore[arg-type]
