"""Map embeddings: against the definition in float64, and what holds of every one."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finer_ray.saliency.map_embedding import map_embedding


def defined(activation: np.ndarray, basis: np.ndarray, references: np.ndarray, gamma: float) -> np.ndarray:
    """Image by image, in plain NumPy."""
    found = []
    for cells, maps, own in zip(activation, basis, references, strict=True):
        others = maps[1:][own >= 0]
        heat = np.maximum(maps[0] - gamma * others.mean(0) if len(others) else maps[0], 0)
        pooled = (heat * cells).sum((1, 2))
        found.append(pooled / np.linalg.norm(pooled) if heat.any() else pooled)
    return np.array(found)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.6, 2.0]), st.integers(-12, 12))
def test_is_the_direction_of_the_weighted_mean(seed: int, gamma: float, power: int) -> None:
    random = np.random.default_rng(seed)
    activation = random.standard_normal((4, 5, 3, 2))
    basis = random.standard_normal((4, 3, 3, 2))
    references = np.where(random.random((4, 2)) < 0.3, -1, 7)
    given = [torch.from_numpy(values) for values in (activation, basis * 10.0**power, references)]
    found = map_embedding(given[0], given[1], given[2], gamma)
    np.testing.assert_allclose(found, defined(activation, basis, references, gamma), rtol=1e-9, atol=1e-12)


def test_large_and_small_activations_have_length_one_and_an_empty_map_none() -> None:
    activation = torch.randn((3, 4, 2, 2), generator=torch.Generator().manual_seed(0))
    basis = torch.ones((3, 1, 2, 2))
    basis[1] = -1
    for scale in (1e-30, 1e30):
        found = map_embedding(activation * scale, basis * scale, torch.empty((3, 0), dtype=torch.int64), 0.6)
        torch.testing.assert_close(found.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))
