"""LeGrad and Chefer's relevance against autograd through the library's own modules, with their attention explicit."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finer_ray.models import Classifier
from finer_ray.saliency import LeGrad, MapSpec, SaliencySpec, explain
from finer_ray.saliency.chefer import chefer, trace
from finer_ray.saliency.legrad import layer_gradients, legrad, look
from finer_ray.saliency.methods import METHODS
from tests.saliency.models import build, images

# 12 blocks and class token; patches alone; registers; and of open_clip with layer scale, mean, and the norm behind it.
NAMES = ["vit", "vit-avg", "registers", "clip-tok", "clip-avg", "clip-late"]
GAMMA = 0.6
SPEC = SaliencySpec(
    tuple(MapSpec(f"{cam}{gamma}", cam, gamma) for cam in ("legrad", "chefer") for gamma in (0.0, GAMMA))
)


def explicit(attn: Any, kept: list[Tensor]) -> Any:
    """A forward of a library's attention module that computes the probabilities, and keeps them in the graph."""

    def forward(x: Tensor, *_given: Any, **_options: Any) -> Any:
        clip = isinstance(attn, nn.MultiheadAttention)
        weight, bias = (attn.in_proj_weight, attn.in_proj_bias) if clip else (attn.qkv.weight, attn.qkv.bias)
        found = []
        for part in (x @ weight.T + bias).chunk(3, dim=2):
            found.append(torch.stack(part.chunk(attn.num_heads, dim=2), dim=1))
        query, key, value = found
        kept.append((query @ key.mT / query.shape[3] ** 0.5).softmax(3))
        out = torch.cat((kept[-1] @ value).unbind(1), dim=2)
        return (attn.out_proj(out), None) if clip else attn.proj(out)

    return forward


@contextmanager
def opened(model: Classifier) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Attention of each block and tokens behind it, of the forward passes in this context."""
    encoder = model.split.encoder
    blocks = encoder.transformer.resblocks if hasattr(encoder, "transformer") else encoder.blocks
    kept: list[Tensor] = []
    tokens: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: tokens.append(out)) for block in blocks]
    for block in blocks:
        block.attn.forward = explicit(block.attn, kept)
    try:
        yield kept, tokens
    finally:
        for hook in hooks:
            hook.remove()
        for block in blocks:
            del block.attn.forward


def embedded(model: Classifier, pooled: Tensor) -> Tensor:
    """A vector (1, D) through the final norm and projection of the library's module."""
    encoder = model.split.encoder
    if hasattr(encoder, "ln_post"):
        return encoder.ln_post(pooled) @ encoder.proj
    return encoder.fc_norm(encoder.norm(pooled))


def whole_logits(model: Classifier, image: Tensor) -> Tensor:
    """Logits by the library's own forward pass."""
    output = model.split(image)
    return output if output.shape[1] == len(model.head.weight) else model.head(output)


def by_autograd(model: Classifier, image: Tensor, classes: list[int], weights: list[float], layers: int) -> Any:
    """LeGrad's map before its normalisation and Chefer's, (T,) with all tokens, of one image (1, 3, H, W)."""
    objective = torch.tensor(weights, dtype=torch.float64)
    with opened(model) as (attention, tokens):
        # With a graph from the pixels on.
        logits = whole_logits(model, image.clone().requires_grad_())
        score = logits[0, classes] @ objective
        gradients = torch.autograd.grad(score, attention, retain_graph=True)
        length = attention[0].shape[3]
        rules = torch.eye(length, dtype=torch.float64)
        for a, gradient in zip(attention, gradients, strict=True):
            rules = rules + (a * gradient)[0].clamp(min=0).mean(0) @ rules
        light = torch.zeros(length, dtype=torch.float64)
        for a, behind in list(zip(attention, tokens, strict=True))[-layers:]:
            score = model.head(embedded(model, behind.mean(1)))[0, classes] @ objective
            (gradient,) = torch.autograd.grad(score, a, retain_graph=True)
            light += gradient[0].clamp(min=0).mean(0).mean(0)
    return light, rules.detach()


def ranged(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("name", NAMES)
def test_is_autograd_through_the_librarys_module(name: str) -> None:
    model = build(name)
    x = images(model, 2)
    layers = 1 if name == "clip-avg" else 3
    found = explain(model, x, SaliencySpec(SPEC.maps, settings={"legrad": LeGrad(layers=layers)}))
    prefix = model.split.prefix
    assert found.maps.dtype == torch.float64
    for row in range(2):
        classes = [int(found.target[row]), *found.references[row].tolist()]
        for place, gamma in enumerate((0.0, GAMMA)):
            weights = [1.0, *[-gamma / 3] * 3]
            light, rules = by_autograd(model, x[row : row + 1], classes, weights, layers)
            torch.testing.assert_close(found.maps[row, place].flatten(), ranged(light[prefix:]), rtol=1e-7, atol=1e-9)
            # A pooled patch token begins with 1 at itself: that says nothing, and is taken off.
            pooled = rules[:1] if name in ("vit", "registers", "clip-tok") else (rules - torch.eye(len(rules)))[prefix:]
            torch.testing.assert_close(
                found.maps[row, 2 + place].flatten(), pooled.mean(0)[prefix:], rtol=1e-7, atol=1e-12
            )


@pytest.mark.parametrize("name", ["vit", "clip-avg"])
def test_is_linear_in_the_objective_below_the_relu(name: str) -> None:
    """The kept terms of the classes, combined, are the derivative of the combined score."""
    model = build(name)
    stack, x = model.stack, images(model, 1)
    assert stack is not None
    seen = look(stack, x, 2)
    each = layer_gradients(model, stack, seen, torch.tensor([[2, 0, 5]]))
    one = layer_gradients(model, stack, seen, torch.tensor([[2], [0], [5]])[:1])
    torch.testing.assert_close(each[:, :1], one, rtol=1e-12, atol=0)
    values = [part.value for part in seen]
    weights = torch.tensor([[[1.0, -0.4, -0.2]]], dtype=torch.float64)
    combined = torch.tensordot(weights[0, 0], each[0], 1)[None, None]
    alone = torch.ones((1, 1, 1), dtype=torch.float64)
    grid = model.grid_size
    torch.testing.assert_close(
        legrad(values, each, stack.prefix, grid, weights), legrad(values, combined, stack.prefix, grid, alone)
    )
    # A positive factor changes nothing, and the sign does.
    torch.testing.assert_close(
        legrad(values, each, stack.prefix, grid, 3 * weights), legrad(values, each, stack.prefix, grid, weights)
    )
    against = legrad(values, each, stack.prefix, grid, -weights)
    assert not torch.allclose(against, legrad(values, each, stack.prefix, grid, weights))


def test_where_nothing_speaks_for_the_objective_maps_are_zero() -> None:
    """As of a class less itself; nothing is divided by zero."""
    model = build("clip-avg")
    stack, x, classes = model.stack, images(model, 2), torch.tensor([[2, 2]] * 2)
    assert stack is not None
    nothing = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]] * 2, dtype=torch.float64)
    seen = look(stack, x, 2)
    gradients = layer_gradients(model, stack, seen, classes)
    maps = legrad([part.value for part in seen], gradients, stack.prefix, model.grid_size, nothing)
    assert torch.equal(maps, torch.zeros((2, 2, *model.grid_size), dtype=torch.float64))
    traced = partial(trace, model, stack)
    assert torch.equal(chefer(stack, traced, x, classes, model.grid_size, 2**40, nothing), maps)


def test_more_blocks_than_there_are_is_all_of_them() -> None:
    model = build("clip-tok")
    x = images(model, 2)
    maps = (MapSpec("m", "legrad", GAMMA),)
    some = [explain(model, x, SaliencySpec(maps, settings={"legrad": LeGrad(layers=n)})).maps for n in (1, 2, 99)]
    assert torch.equal(some[1], some[2])
    assert not torch.allclose(some[0], some[1])


def test_many_images_go_in_groups_that_fit_the_memory() -> None:
    model = build("clip-tok")
    stack, x = model.stack, images(model, 3)
    assert stack is not None
    sizes = []

    def traced(part: Tensor) -> Any:
        sizes.append(len(part))
        return trace(model, stack, part)

    classes, weights = torch.tensor([[1, 2]] * 3), torch.tensor([[[1.0, -1.0], [0.0, 1.0]]] * 3)
    maps = [chefer(stack, traced, x, classes, model.grid_size, memory, weights) for memory in (1, 2**40)]
    assert sizes == [1, 1, 1, 3]
    torch.testing.assert_close(*maps, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", ["vit", "clip-avg"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_the_model_alone(name: str, dtype: torch.dtype) -> None:
    model = build(name).float()
    try:
        x = images(model, 2).float()
        exact = explain(model, x, SPEC)
        with torch.autocast("cpu", dtype):
            found = explain(model, x, SPEC, exact.target, exact.references)
        assert found.maps.dtype == torch.float32
        assert found.maps.isfinite().all()
        pairs = zip(found.maps.flatten(0, 1).flatten(1), exact.maps.flatten(0, 1).flatten(1), strict=True)
        for half, whole in pairs:
            assert torch.corrcoef(torch.stack([half, whole]))[0, 1] > 0.97
            assert not torch.equal(half, whole)
    finally:
        model.double()


@pytest.mark.parametrize("name", ["qk-norm", "resnet", "swin", "siglip"])
@pytest.mark.parametrize("cam", ["legrad", "chefer"])
def test_other_architectures_are_refused(name: str, cam: str) -> None:
    """Normalised queries, no tokens, windows, attention pooling."""
    model = build(name)
    reason = METHODS[cam].refusal(model, False)
    assert reason is not None
    assert reason.startswith(f"{cam} needs a ViT of plain blocks")
    with pytest.raises(ValueError, match=reason[:30]):
        explain(model, images(model, 1), SaliencySpec((MapSpec("m", cam),)))
