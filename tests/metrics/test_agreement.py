"""Agreement of maps, against numpy; windows, against cutting the map itself."""

import numpy as np
import pytest
import torch
from scipy import stats

from finer_ray.metrics.agreement import cosine, pearson, resample, spearman, to_peak

RANDOM = np.random.default_rng(0)
A, B = (torch.from_numpy(RANDOM.random((5, 4, 6), dtype=np.float32)) for _ in range(2))


def test_is_numpys_correlation() -> None:
    for a, b, c, r in zip(A.numpy(), B.numpy(), cosine(A, B), pearson(A, B), strict=True):
        assert c.item() == pytest.approx(np.vdot(a, b) / np.sqrt(np.vdot(a, a) * np.vdot(b, b)), rel=1e-6)
        assert r.item() == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], rel=1e-5)
    torch.testing.assert_close(pearson(A, 3 * A + 1), torch.ones(5, dtype=torch.float64))


def test_a_flat_map_agrees_with_nothing() -> None:
    flat = torch.full((2, 7, 7), 0.1)
    flat[1] = 0
    other = torch.from_numpy(RANDOM.random((2, 7, 7)))
    assert pearson(flat, other).isnan().all()
    assert cosine(flat, other).isnan().tolist() == [False, True]
    assert to_peak(flat).amax((1, 2)).tolist() == [1, 0]


def test_ranks_are_scipys() -> None:
    steps = (4 * A).round()
    for a, b in ((A, B), (steps, B), (steps, (3 * B).round())):
        expected = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
        np.testing.assert_allclose(spearman(a, b), expected, atol=1e-12)
    assert spearman(steps, steps).tolist() == [1.0] * 5
    assert spearman(A, -A.exp()).tolist() == [-1.0] * 5
    flawed = A.clone()
    flawed[0], flawed[1, 0, 0], flawed[2, 0, 0] = 0.5, torch.nan, torch.inf
    assert spearman(flawed, A).isnan().tolist() == [True, True, True, False, False]


def test_windows() -> None:
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(5, -1)
    torch.testing.assert_close(resample(A, whole, (4, 6)), A)
    # Two columns of six and two rows of four, on their own cells.
    window = torch.tensor([[1 / 6, 0.25, 0.5, 0.75]]).expand(5, -1)
    torch.testing.assert_close(resample(A, window, (2, 2)), A[:, 1:3, 1:3])
    larger = torch.nn.functional.interpolate(A[:, None], (9, 13), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(resample(A, whole, (9, 13)), larger)
