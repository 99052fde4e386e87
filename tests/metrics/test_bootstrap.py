"""The interval of many images, against drawing them."""

import numpy as np
import pytest

from finer_ray.metrics import bootstrap
from finer_ray.metrics.bootstrap import MANY, paired_interval


def test_many_images_take_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    skewed = np.random.default_rng(0).exponential(1.0, MANY) - 0.9
    limit = paired_interval(skewed)
    monkeypatch.setattr(bootstrap, "MANY", MANY + 1)
    drawn = paired_interval(skewed)
    assert limit != drawn
    width = drawn[1] - drawn[0]
    np.testing.assert_allclose(limit, drawn, atol=0.05 * width)
    assert paired_interval(skewed, level=0.5)[0] > drawn[0]


def test_many_equal_values_have_no_width() -> None:
    assert paired_interval(np.full(MANY, 0.25)) == (0.25, 0.25)


@pytest.mark.timeout(20)
def test_a_million_images_take_no_time() -> None:
    low, high = paired_interval(np.random.default_rng(0).normal(0.1, 1.0, 1_000_000))
    assert low < 0.1 < high
    assert high - low == pytest.approx(2 * 1.96e-3, rel=0.01)
