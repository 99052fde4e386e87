"""Metrics of regions that order pixels, against sets of pixels by hand."""

from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from finer_ray.config.loading import parse_config
from finer_ray.metrics.iou import best_iou
from finer_ray.metrics.rank_accuracy import rank_accuracy
from finer_ray.metrics.sparsity import gini
from finer_ray.pipeline.export import export
from finer_ray.store.reading import open_export
from tests.conftest import sample, write_tar

# Few values, so that many pixels are alike; a map of the region's own size is drawn as it is.
VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
pairs = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda size: st.tuples(arrays(np.float32, size, elements=VALUES), arrays(np.bool_, size))
)
Pair = tuple[NDArray[np.float32], NDArray[np.bool_]]


def of(metric: Any, heat: NDArray[np.float32], region: NDArray[np.bool_]) -> float:
    """By NumPy and by torch, which agree."""
    found = metric(heat[None, None], region[None])
    tensor = metric(torch.from_numpy(heat)[None, None], torch.from_numpy(region)[None])
    np.testing.assert_array_equal(found, tensor.numpy())
    assert found.dtype == np.float32
    return float(found[0, 0])


@given(pairs)
@settings(max_examples=60)
def test_iou_is_the_best_of_all_thresholds(pair: Pair) -> None:
    heat, region = pair
    found = of(best_iou, heat, region)
    if not region.any() or not heat.any():
        assert np.isnan(found)
        return
    sets = [heat >= value for value in np.unique(heat)]
    expected = max(Fraction(int((taken & region).sum()), int((taken | region).sum())) for taken in sets)
    assert found == pytest.approx(float(expected), rel=1e-6)
    assert found >= region.mean() - 1e-6


@given(pairs)
@settings(max_examples=60)
def test_rank_accuracy_is_the_mean_over_orders_of_equals(pair: Pair) -> None:
    heat, region = pair
    found = of(rank_accuracy, heat, region)
    size = int(region.sum())
    if not size or not heat.any():
        assert np.isnan(found)
        return
    # One value after the other, the highest first; of the last one as many as there is room for.
    hits = Fraction(0)
    for value in np.unique(heat)[::-1]:
        here = heat == value
        room = min(size, int(here.sum()))
        hits += Fraction(room * int((here & region).sum()), int(here.sum()))
        size -= room
    assert found == pytest.approx(float(hits / int(region.sum())), rel=1e-6)


def test_a_mean_over_orders_by_trying_them_all() -> None:
    heat, region = np.array([[1.0, 0.5, 0.5, 0.5]], np.float32), np.array([[False, True, True, False]])
    tries = [np.mean([region[0, place] for place in (0, *order)[:2]]) for order in permutations((1, 2, 3))]
    assert of(rank_accuracy, heat, region) == pytest.approx(np.mean(tries))


@given(arrays(np.float64, (3, 4), elements=st.floats(0, 1)))
@settings(max_examples=60)
def test_gini_is_half_the_relative_mean_difference(heat: NDArray[np.float64]) -> None:
    if heat.sum() < 1e-6:
        return
    cells = heat.ravel()
    expected = np.abs(cells[:, None] - cells).mean() / (2 * cells.mean())
    assert float(gini(torch.from_numpy(heat)[None, None])) == pytest.approx(expected, abs=1e-12)


def test_ends_of_gini() -> None:
    maps = torch.zeros((1, 3, 7, 7))
    maps[0, 0], maps[0, 1, 2, 3] = 0.3, 5.0
    found = gini(maps)[0]
    assert found[:2].tolist() == pytest.approx([0.0, 48 / 49], abs=1e-6)
    assert found[2].isnan()


def test_regions_are_read_for_any_metric_that_needs_them(tmp_path: Any) -> None:
    """Also where localisation is off; the sweep has what the job asked for."""
    from finer_ray.studies.sweep import sweep_table

    tar = write_tar(tmp_path / "a.tar", [m for i in range(2) for m in sample(f"p{i}", i, i, [10, 8, 60, 50])])
    tree: dict[str, Any] = {
        "input": {"shards": str(tar)},
        "model": {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64},
        "metrics": {"localisation": False, "iou": True, "rank_accuracy": True, "sparsity": True},
        "output": {"url": str(tmp_path / "out"), "rows_per_unit": 32},
        "compute": {"executor": "inline"},
    }
    export(parse_config(tree))
    made = open_export(str(tmp_path / "out"))
    lines = made.metrics.to_pylist()
    assert len(lines) == 4
    for line in lines:
        assert line["region"] == "box"
        assert line["localisation"] is None
        assert all(0 < line[name] <= 1 for name in ("iou", "rank_accuracy", "sparsity"))
    swept = sweep_table(made, [0.0])
    assert swept.column_names == ["row", "gamma", "rank_accuracy", "iou"]
    plain = [line["iou"] for line in lines if line["map"] == "gradcam"]
    np.testing.assert_allclose(swept["iou"].to_pylist(), plain, atol=2e-2)
    assert made.classes["iou_count"].to_pylist() == [1] * 4
