"""What reads an export computes with NumPy what the job computes with torch."""

import numpy as np
import pytest
import torch

from finer_ray.metrics.metric import MapContext
from finer_ray.metrics.table import OF_REGION
from finer_ray.saliency import AGGREGATIONS, WEIGHTINGS, contrast, reference_weights
from finer_ray.saliency.registration import Registration

PRESENT = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], bool)


def lacking(values: np.ndarray) -> np.ndarray:
    """NaN where there is no reference, as an export has it."""
    values[~PRESENT] = np.nan
    return values


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.filterwarnings("error")
def test_weights_of_references(weighting: str) -> None:
    logits = lacking(np.random.default_rng(0).normal(0, 300, PRESENT.shape).astype(np.float32))
    found = reference_weights(logits, PRESENT, weighting)
    expected = reference_weights(torch.from_numpy(logits), torch.from_numpy(PRESENT), weighting).numpy()
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(1), PRESENT.any(1), atol=1e-4)
    assert not found[~PRESENT].any()
    softmax = torch.from_numpy(np.where(PRESENT, logits, -np.inf)[:3]).softmax(1).numpy()
    if weighting == "probability_detached":
        np.testing.assert_allclose(found[:3], softmax, rtol=1e-6, atol=1e-7)
    assert reference_weights(logits[:, :0], PRESENT[:, :0], weighting).shape == (4, 0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.6, -1.0, 2.0])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.filterwarnings("error")
def test_contrast(aggregation: str, gamma: float, reverse: bool) -> None:
    basis = np.random.default_rng(1).normal(size=(4, 4, 7, 5)).astype(np.float32)
    lacking(basis[:, 1:])
    weights = reference_weights(lacking(np.ones_like(basis[:, 1:, 0, 0])), PRESENT, "equal")
    found = contrast(basis, gamma, aggregation, PRESENT, reverse, weights)
    tensors = (torch.from_numpy(values) for values in (basis, PRESENT, weights))
    b, present, w = tensors
    expected = contrast(b, gamma, aggregation, present, reverse, w).numpy()
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.nanmax(np.abs(basis)))
    for images in (0, 1):
        none = contrast(basis[:images, :1], gamma, aggregation, reverse=reverse)
        np.testing.assert_array_equal(none, 0 if reverse else basis[:images, 0].clip(min=0))


@pytest.mark.parametrize("name", OF_REGION)
@pytest.mark.filterwarnings("error")
def test_metrics_of_regions(name: str) -> None:
    rng, here = np.random.default_rng(2), Registration((-9.0, 5.0), (8.0, 8.0))
    maps, region = rng.random((3, 4, 7, 6)).astype(np.float32), np.zeros((3, 56, 48), bool)
    region[0, 4:30, 5:40] = region[1, 50:, 44:] = True
    # No energy; equal maxima, of which the first counts.
    maps[0, 0], maps[1, 1] = 0, 1
    found = OF_REGION[name].compute(MapContext(maps, region, registration=here))
    tensors = MapContext(torch.from_numpy(maps), torch.from_numpy(region), registration=here)
    expected = OF_REGION[name].compute(tensors).numpy()
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert np.isnan(found).tolist() == [[True, False, False, False], [False] * 4, [True] * 4]
