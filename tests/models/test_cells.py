"""The cells of a module's output are found by the shape of the images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finer_ray.models.cells import cells, prefix_tokens, token_grid

SIDES = st.integers(2, 40)


@given(SIDES, SIDES, st.sampled_from([8, 14, 16, 32]), st.sampled_from([0, 1, 2, 5]))
def test_tokens_come_back_in_their_places(h: int, w: int, patch: int, prefix: int) -> None:
    size = (h * patch, w * patch)
    assert token_grid(h * w, size) == (h, w)
    places = torch.arange(h * w, dtype=torch.float32).reshape(h, w)
    tokens = torch.cat([torch.full((1, prefix, 3), -1.0), places.flatten()[None, :, None].expand(1, -1, 3)], dim=1)
    found = cells(tokens, size, prefix)
    assert found is not None
    assert torch.equal(found, places.expand(1, 3, h, w))


@given(st.integers(4, 40), st.integers(0, 5))
def test_prefix_tokens_are_found_where_the_encoder_tells_another_number(side: int, prefix: int) -> None:
    """CaiT's blocks of patch tokens have none, though its class-attention has; of squares one number alone fits."""
    for usual in (1, 5):
        found = prefix_tokens(side * side + prefix, (side * 16, side * 16), usual)
        assert found is not None
        # A grid that is as square with the usual number is believed.
        assert found == prefix or (found == usual and ((side * side + prefix - usual) ** 0.5).is_integer())


@given(SIDES, SIDES, st.sampled_from([4, 8, 32]), st.integers(41, 99))
def test_maps_are_told_from_maps_with_channels_last(h: int, w: int, stride: int, channels: int) -> None:
    size = (h * stride, w * stride)
    values = torch.arange(2 * channels * h * w, dtype=torch.float32).reshape(2, channels, h, w)
    for last in (False, True):
        for given_ in (values, values.permute(0, 2, 3, 1)):
            found = cells(given_, size, channels_last=last)
            assert found is not None
            assert torch.equal(found, values)


@pytest.mark.parametrize(
    "shape",
    [(2, 768), (2, 12, 197, 64), (2, 222, 64), (2, 3, 14, 14, 5), (2,)],
)
def test_what_has_no_cells(shape: tuple[int, ...]) -> None:
    assert cells(torch.zeros(shape), (224, 224), 1) is None


def test_a_map_that_could_be_read_in_both_ways() -> None:
    values = torch.randn(1, 7, 7, 7)
    assert torch.equal(cells(values, (224, 224)), values)  # type: ignore[arg-type]
    assert torch.equal(cells(values, (224, 224), channels_last=True), values.permute(0, 3, 1, 2))  # type: ignore[arg-type]
