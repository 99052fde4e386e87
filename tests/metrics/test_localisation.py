"""Localisation against sums by hand."""

import pytest
import torch
from torch.nn import functional

from finer_ray.metrics.localisation import localisation, pointing_hit
from finer_ray.saliency.registration import Registration

MAPS = torch.rand((3, 2, 7, 7), generator=torch.Generator().manual_seed(0))
REGION = torch.zeros((3, 28, 21), dtype=torch.bool)
REGION[0, 4:20, 3:9] = True
REGION[1] = True


def test_energy_share_is_the_sum_inside_over_the_sum() -> None:
    large = functional.interpolate(MAPS, (28, 21), mode="bilinear", align_corners=False)
    expected = large[0, 1, 4:20, 3:9].sum() / large[0, 1].sum()
    share = localisation(MAPS, REGION)
    assert share.shape == (3, 2)
    assert share[0, 1] == pytest.approx(float(expected), abs=1e-6)
    assert share[1].tolist() == pytest.approx([1.0, 1.0])
    assert share[2].isnan().all(), "a region that was cropped away"
    assert localisation(torch.zeros_like(MAPS), REGION).isnan().all(), "a map without energy"
    torch.testing.assert_close(localisation(MAPS * 1e-6, REGION)[:2], share[:2])


def test_pointing_hit_looks_at_the_maximum() -> None:
    maps = torch.zeros((3, 1, 7, 7))
    maps[:, 0, 2, 1] = 1.0
    hit = pointing_hit(maps, REGION)
    assert hit[:2, 0].tolist() == [1.0, 1.0]
    assert hit[2].isnan().all()
    maps[0, 0, 6, 6] = 2.0
    assert pointing_hit(maps, REGION)[0, 0] == 0.0
    assert pointing_hit(torch.zeros_like(maps), REGION).isnan().all()


def test_a_map_s_light_lies_where_its_cells_look() -> None:
    """A cell that looks at the object is a hit, wherever stretching would put it."""
    maps, region = torch.zeros((1, 1, 7, 7)), torch.zeros((1, 224, 224), dtype=torch.bool)
    maps[0, 0, 4, 2] = 1.0
    here = Registration((-9.0, 20.0), (32.0, 32.0))
    region[0, 4 * 32 - 9 - 16 : 4 * 32 - 9 + 17, 2 * 32 + 20 - 16 : 2 * 32 + 20 + 17] = True
    assert pointing_hit(maps, region, here).item() == 1
    assert pointing_hit(maps, region).item() == 0
    # Of a tent that falls by 1 / 32 a pixel and sums to 32, 16 pixels to either side of its peak, along both axes.
    assert localisation(maps, region, here).item() == pytest.approx((24.5 / 32) ** 2, abs=1e-5)
    assert localisation(maps, region).item() < 0.4
