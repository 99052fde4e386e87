"""Patches against a float64 reference in NumPy: which cells, and what is kept of them."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from finer_ray.config.schema import ModelConfig
from finer_ray.models import build_classifier
from finer_ray.models.preparing import autocast
from finer_ray.saliency import MapSpec, SaliencySpec, explain
from finer_ray.saliency.patches import FEATURES, patch_features, projection, top_cells
from tests.saliency.models import build, images

Array = NDArray[Any]


def best_cells(basis: Array, present: Array, gamma: float, count: int) -> list[int]:
    """Of one image: cells by evidence and then by place, one after the other."""
    others = [basis[1 + k] for k in range(len(present)) if present[k]]
    evidence = (basis[0] - gamma * np.mean(others, axis=0) if others else basis[0]).ravel()
    found = sorted((-value, cell) for cell, value in enumerate(evidence) if value > 0)
    return ([cell for _, cell in found] + [-1] * count)[:count]


@given(st.data(), st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(1, 15))
def test_cells_are_the_strongest_and_of_equals_the_first(data: Any, k: int, gamma: float, count: int) -> None:
    """Whole numbers, so that many are equal, and all sums are exact."""
    basis = data.draw(arrays(np.float64, (2, 1 + k, 3, 4), elements=st.integers(-12, 12).map(lambda n: 6.0 * n)))
    present = data.draw(arrays(bool, (2, k)))
    cells = top_cells(torch.from_numpy(basis), torch.from_numpy(present), gamma, count)
    assert cells.tolist() == [best_cells(*image, gamma, count) for image in zip(basis, present, strict=True)]


def test_a_basis_that_is_no_number_has_no_cells() -> None:
    basis = torch.full((1, 2, 2, 2), torch.nan)
    assert top_cells(basis, torch.ones((1, 1), dtype=torch.bool), 0.6, 3).tolist() == [[-1, -1, -1]]


def features_of(activation: Array, cells: Array) -> Array:
    """(B, n, 64) from A (B, D, h, w), one cell after the other."""
    gaussian = np.random.RandomState(0).standard_normal((activation.shape[1], 64)).astype(np.float32).astype(np.float64)
    found = np.full((*cells.shape, 64), np.nan)
    for image, cell in zip(*np.nonzero(cells >= 0), strict=True):
        y, x = divmod(cells[image, cell], activation.shape[3])
        projected = activation[image, :, y, x] @ gaussian
        found[image, cell] = projected / np.sqrt((projected**2).sum())
    return found


@pytest.mark.parametrize("name", ["vit", "clip-avg", "clip-resnet", "resnet"])
@pytest.mark.parametrize("cam", ["gradcam", "layercam"])
def test_an_explanation_carries_them(name: str, cam: str) -> None:
    """Of tokens and of maps, whatever maps are drawn, in float64 and in float32."""
    model = build(name)
    x = images(model, 2)
    spec = SaliencySpec((MapSpec("m", cam),), patches=7, gamma=0.8)
    found = explain(model, x, spec)
    assert found.patch_cells is not None
    assert found.patches is not None
    expected = [best_cells(basis.numpy(), np.ones(3, bool), 0.8, 7) for basis in found.basis]
    assert found.patch_cells.tolist() == expected
    activation = model.cut(x).activation.numpy()
    np.testing.assert_allclose(found.patches, features_of(activation, np.array(expected)), rtol=0, atol=1e-10)
    single = explain(copy.deepcopy(model).float(), x.float(), spec, found.target, found.references)
    assert single.patches is not None
    assert single.patch_cells is not None
    alike = single.patch_cells == found.patch_cells
    assert alike.float().mean() > 0.7, "two that change places are as strong as each other"
    np.testing.assert_allclose(single.patches[alike], found.patches[alike], rtol=0, atol=1e-3)
    assert explain(model, x, SaliencySpec()).patches is None


def test_of_several_targets_they_are_the_first_one_s() -> None:
    model = build("resnet")
    x = images(model, 2)
    spec = SaliencySpec(patches=4)
    several, alone = explain(model, x, SaliencySpec(targets=3, patches=4)), explain(model, x, spec)
    assert several.patch_cells is not None
    assert several.patch_cells.tolist() == alone.patch_cells.tolist()  # type: ignore[union-attr]
    torch.testing.assert_close(several.patches, alone.patches, rtol=0, atol=1e-9)


def test_a_reference_that_is_missing_does_not_count() -> None:
    model = build("resnet")
    x = images(model, 2)
    listed = torch.tensor([[1, -1], [-1, -1]])
    found = explain(model, x, SaliencySpec(patches=6), torch.tensor([0, 0]), listed)
    basis = found.basis.nan_to_num(0).numpy()
    expected = [best_cells(*image, 0.6, 6) for image in zip(basis, listed.numpy() >= 0, strict=True)]
    assert found.patch_cells.tolist() == expected  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [
        {"backbone": "timm:beit_base_patch16_224", "kwargs": {"depth": 2, "embed_dim": 48, "num_heads": 4}},
        {"backbone": "timm:test_vit", "cam_layer": "blocks.1"},
        {"backbone": "timm:test_vit", "cam_layer": "final", "pool": "avg"},
    ],
)
def test_splits_at_any_module_and_half_precision(options: dict[str, Any]) -> None:
    model = build_classifier(ModelConfig(weights="random", image_size=64, **options))
    x = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    found = explain(model, x, SaliencySpec(patches=5))
    assert found.patch_cells is not None
    expected = features_of(model.cut(x).activation.double().numpy(), found.patch_cells.numpy())
    np.testing.assert_allclose(found.patches, expected, rtol=0, atol=1e-5)
    with autocast(torch.device("cpu"), "bf16"):
        half = explain(model, x, SaliencySpec(patches=5))
        activation = model.cut(x).activation.double().numpy()
    assert half.patches is not None
    assert half.patches.dtype == torch.float32
    # The projection itself is no matter of half precision.
    np.testing.assert_allclose(half.patches, features_of(activation, half.patch_cells.numpy()), rtol=0, atol=1e-5)  # type: ignore[union-attr]


@given(st.integers(0, 10**6), st.integers(1, 7))
def test_the_others_of_a_batch_do_not_matter(seed: int, size: int) -> None:
    activation = torch.randn((size, 48, 4, 5), generator=torch.Generator().manual_seed(seed))
    cells = torch.from_numpy(np.random.default_rng(seed).integers(-1, 20, (size, 6)))
    whole = patch_features(activation, cells)
    each = torch.cat([patch_features(activation[[i]], cells[[i]]) for i in range(size)])
    np.testing.assert_allclose(whole, each, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [48, 384, 1280])
def test_what_is_alike_stays_so(channels: int) -> None:
    """Johnson and Lindenstrauss: cosines lose (1 - c^2) / sqrt(64) at most, as a standard deviation."""
    random = np.random.default_rng(channels)
    common = random.standard_normal((50, channels))
    mixed = [share * common + (1 - share) * random.standard_normal((50, channels)) for share in (0, 0.3, 0.5, 0.8)]
    # Of a scale at which float32 squares would overflow.
    values = 1e30 * np.concatenate([common, *mixed]).astype(np.float32)
    activation = torch.from_numpy(values.T[None, :, :, None].copy())
    found = patch_features(activation, torch.arange(250)[None])[0].double().numpy()
    directions = values.astype(np.float64) / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    before, after = (np.clip(rows @ rows.T, -1, 1)[np.triu_indices(250, 1)] for rows in (directions, found))
    off = (after - before) / ((1 - before**2) / np.sqrt(FEATURES))
    assert 0.8 < np.sqrt((off**2).mean()) < 1.2
    assert np.abs(off).max() < 6
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_the_matrix_is_always_the_same() -> None:
    """NumPy keeps the numbers of this generator as they are, so the first is known."""
    first = projection(64)
    np.testing.assert_allclose(first[0, :3], [1.7640524, 0.4001572, 0.978738], rtol=1e-6)
    assert torch.equal(first, projection(64, "cpu"))
    assert first.shape == (64, FEATURES)
