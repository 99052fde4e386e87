"""GEM against its pathway written out: one image, one block, one head, one pair of tokens at a time."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finer_ray.models import Classifier
from finer_ray.models.split import Unsupported
from finer_ray.saliency import Gem, MapSpec, SaliencySpec, contrast, explain
from finer_ray.saliency.gem import gem, gem_basis
from tests.saliency.models import MODELS, build, images

# 4 x 6 patches and layer scale; mean pooling; the final norm after pooling.
NAMES = ["clip-tok", "clip-avg", "clip-late"]
MAPS = (MapSpec("g", "gem"), MapSpec("f", "gem", 0.6), MapSpec("o", "gem", 0.6, "mean_after_relu"))


def attend(rows: list[Tensor], values: list[Tensor], inverse: float) -> list[Tensor]:
    """Each row's softmax over all rows, times values."""
    result = []
    for row in rows:
        scores = torch.stack([inverse * (row @ other) for other in rows])
        shares = scores.exp() / scores.exp().sum()
        result.append(sum(share * value for share, value in zip(shares, values, strict=True)))
    return result  # type: ignore[return-value]


def self_self(x: Tensor, attn: nn.MultiheadAttention, settings: Gem) -> Tensor:
    """(T, D), one token after the other."""
    q, k, v = (x @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, dim=1)
    size = x.shape[1] // attn.num_heads
    inverse = sum(float(row.norm()) for row in x) / len(x) / math.sqrt(size)
    if settings.temperature is not None:
        inverse = 1 / settings.temperature
    whole = torch.zeros_like(x)
    for head in range(attn.num_heads):
        part = slice(head * size, (head + 1) * size)
        for kind in (q, k, v):
            rows = list(kind[:, part])
            for _ in range(settings.iterations):
                rows = [row / row.norm() for row in rows]
                rows = attend(rows, rows, inverse)
            rows = [row / row.norm() for row in rows]
            whole[:, part] += torch.stack(attend(rows, list(v[:, part]), inverse)) / 3
    return whole


def by_hand(model: Classifier, image: Tensor, settings: Gem) -> Tensor:
    """Cosines of every patch with every text, (7, h, w), of one image (1, 3, H, W)."""
    visual = model.split.encoder
    blocks = list(visual.transformer.resblocks)
    tokens = visual._embeds(image)
    beside = None
    for number, block in enumerate(blocks):
        if number >= len(blocks) - (settings.depth - 1):
            beside = tokens.clone() if beside is None else beside
            mixed = self_self(block.ln_1(tokens)[0], block.attn, settings)
            beside = beside + block.ls_1(mixed @ block.attn.out_proj.weight.T + block.attn.out_proj.bias)[None]
        tokens = block(tokens)
    assert beside is not None
    patches = (visual.ln_post(beside) @ visual.proj)[0, 1:]
    cosines = torch.stack([model.head.weight @ (row / row.norm()) for row in patches])
    return cosines.T.reshape(7, *visual.grid_size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings", [Gem(), Gem(depth=2), Gem(iterations=0), Gem(iterations=2, temperature=0.2)], ids=str
)
def test_is_the_pathway_written_out(name: str, settings: Gem) -> None:
    model = build(name)
    x = images(model, 2)
    found = explain(model, x, SaliencySpec(MAPS, settings={"gem": settings}))
    basis = gem_basis(model, x, torch.arange(7).expand(2, -1), found.maps.shape[2:], settings)  # type: ignore[arg-type]
    for row in range(2):
        cosines = by_hand(model, x[row : row + 1], settings)
        torch.testing.assert_close(basis[row], model.head.scale * cosines, rtol=1e-9, atol=1e-9)
        target, others = cosines[found.target[row]], cosines[found.references[row]]

        def ranged(values: Tensor) -> Tensor:
            return (values - values.min()) / (values.max() - values.min())

        torch.testing.assert_close(found.maps[row, 0], ranged(target), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found.maps[row, 1], ranged(target - 0.6 * others.mean(0)), rtol=1e-7, atol=1e-7)
        pairs = sum(ranged(target - 0.6 * other) for other in others) / 3
        torch.testing.assert_close(found.maps[row, 2], pairs, rtol=1e-7, atol=1e-7)


def test_its_main_stream_is_the_models_own() -> None:
    """With an attention of its own q, k and v, and their MLP left out, one block is what the library computes."""
    model = build("clip-tok")
    x = images(model, 2)
    visual = model.split.encoder
    last = visual.transformer.resblocks[-1]

    def usual(tokens: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
        parts = nn.functional.linear(tokens, weight, bias).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    tokens = model.split.trunk(x)[1]
    expected = visual.ln_post((tokens + last.ls_1(last.attention(last.ln_1(tokens))))[:, 1:]) @ visual.proj
    torch.testing.assert_close(model.patch_embeddings(x, usual, 1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_images(name: str) -> None:
    model = build(name)
    x = images(model, 3)
    whole = explain(model, x, SaliencySpec(MAPS)).maps
    for position in range(3):
        alone = explain(model, x[position : position + 1], SaliencySpec(MAPS)).maps
        torch.testing.assert_close(alone[0], whole[position], rtol=1e-9, atol=1e-9)


def test_maps_span_zero_to_one_and_flat_ones_are_zero() -> None:
    basis = torch.randn((2, 3, 4, 5), dtype=torch.float64)
    basis[1] = 2.5
    maps = gem(basis, torch.tensor([[[1.0, -0.5, 0.0]]]).expand(2, -1, -1))
    assert (maps[0].amin(), maps[0].amax()) == (0, 1)
    assert (maps[1] == 0).all()
    torch.testing.assert_close(maps[:1, 0].argsort(), (basis[:1, 0] - 0.5 * basis[:1, 1]).argsort())
    assert contrast(basis, 0.5).shape == (2, 4, 5)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in NAMES and name not in ("swin", "siglip", "gap")]
)
def test_other_architectures_have_no_side_stream(name: str) -> None:
    model = build(name)
    assert model.split.side_blocks == 0
    nothing: Any = None
    with pytest.raises(Unsupported, match="no side stream"):
        model.patch_embeddings(images(model, 1), nothing, 2)
