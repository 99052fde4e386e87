"""The contrast basis against the formulas, image by image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finer_ray.saliency import AGGREGATIONS, contrast

BASIS = torch.randn((4, 4, 5, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)


def by_hand(maps: torch.Tensor, present: torch.Tensor, gamma: float, aggregation: str, reverse: bool) -> torch.Tensor:
    target, others = maps[0], [m for m, here in zip(maps[1:], present, strict=True) if here]
    if not others:
        return torch.zeros_like(target) if reverse else target.relu()
    pairs = torch.stack([o - gamma * target if reverse else target - gamma * o for o in others])
    if aggregation == "mean_before_relu":
        return pairs.mean(0).relu()
    return pairs.amax(0).relu() if aggregation == "max_before_relu" else pairs.relu().mean(0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@settings(max_examples=25, deadline=None)
@given(gamma=st.floats(-2, 3))
def test_is_the_formula(aggregation: str, reverse: bool, gamma: float) -> None:
    basis = BASIS.clone()
    basis[:, 1:][~PRESENT] = torch.nan
    result = contrast(basis, gamma, aggregation, PRESENT, reverse)
    for maps, present, drawn in zip(basis, PRESENT, result, strict=True):
        torch.testing.assert_close(drawn, by_hand(maps, present, gamma, aggregation, reverse))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gamma_zero_is_the_baseline_and_order_is_nothing(aggregation: str) -> None:
    torch.testing.assert_close(contrast(BASIS, 0.0, aggregation), BASIS[:, 0].relu())
    turned = BASIS[:, [0, 3, 1, 2]]
    torch.testing.assert_close(contrast(turned, 0.7, aggregation), contrast(BASIS, 0.7, aggregation))


def test_unknown_aggregation() -> None:
    with pytest.raises(ValueError, match="mean_before_relu"):
        contrast(BASIS, 0.6, "median")
