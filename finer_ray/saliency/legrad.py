"""LeGrad (Bousselham et al. 2025): how sensitive the tokens that each block forms are to its attention.

Of each of the last blocks l, with A^l its attention's probabilities (heads, queries, keys) and Z^l its tokens:

    y^{j,l} = logit j of the mean of all tokens of Z^l through the final norm, the projection and the head
    s^l     = sum_j a_j y^{j,l}
    map     = min-max normalised sum_l mean over heads and queries of ReLU(ds^l / dA^l), at the keys of the patches

The class token is in that mean, as in the authors' code, whatever the model itself pools. Below its ReLU the map is
linear in s: ds^l / dA^l = sum_j a_j dy^{j,l} / dA^l. Each term is kept as the derivative by the attention's output,
(B, T, D); times V^T it is the one by A (`finer_ray.saliency.block_stack`).
"""

from dataclasses import dataclass
from functools import partial

from pydantic import Field

from finer_ray.config.section import Positive, Section
from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.block_stack import BlockStack, StackBlock, by_head, needs_stack, stack_for
from finer_ray.saliency.gem import spread
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.objective import wide
from finer_ray.saliency.split_classifier import SplitClassifier


class LeGrad(Section):
    """LeGrad (Bousselham et al. 2025): gradients by the attention of each of a ViT's last blocks."""

    # Default of the authors' code.
    layers: Positive = Field(2, description="the last blocks whose attention counts; all where there are fewer")


@dataclass(frozen=True)
class Seen:
    """What a forward pass leaves of one block, without a graph.

    Attributes:
        block: whose it is.
        tokens: before it, (B, T, D).
        mixed: its attention's output, (B, T, H d).
        value: V, (B, H, T, d).
    """

    block: StackBlock
    tokens: Tensor
    mixed: Tensor
    value: Tensor


def look(stack: BlockStack, images: Tensor, layers: int) -> list[Seen]:
    """One forward pass, up to the attention of the last block.

    Args:
        stack: the ViT's.
        images: (B, 3, H, W), normalised.
        layers: how many of the last blocks to keep.
    """
    tokens, seen = stack.enter(images), []
    for number, block in enumerate(stack.blocks, start=1):
        attended = block.attend(tokens)
        if number > len(stack.blocks) - layers:
            seen.append(Seen(block, tokens, attended.mixed, attended.value))
        if number < len(stack.blocks):
            tokens = block.merge(tokens, attended.mixed)
    return seen


def layer_gradients(model: SplitClassifier, stack: BlockStack, seen: list[Seen], classes: Tensor) -> Tensor:
    """d y^{j,l} / d mixed^l of the last L blocks, but for the factor 1 / T.

    Args:
        model: for its head.
        stack: the ViT's.
        seen: what `look` gives.
        classes: (B, J) int64; -1 means none.

    Returns:
        (B, J, L, T, H d) float32 at least, finite.
    """
    found = []
    for part in seen:
        with torch.enable_grad():
            leaf = part.mixed.detach().requires_grad_()
            tokens = wide(part.block.merge(part.tokens, leaf))
            pooled = tokens.detach().mean(1).requires_grad_()
            # Images do not interact: the derivative of a class's sum over them is that of each.
            scores = model.head(stack.project(pooled)).gather(1, classes.clamp(min=0)).sum(0).unbind()
        each = []
        for score in scores:
            (cotangent,) = torch.autograd.grad(score, pooled, retain_graph=True)
            # The mean's derivative without its 1 / T, with which half precision would lose more.
            by_token = cotangent[:, None].expand_as(tokens)
            each.append(wide(torch.autograd.grad(tokens, leaf, by_token, retain_graph=True)[0]))
        found.append(torch.stack(each, dim=1))
    return torch.stack(found, dim=2)


def legrad(values: list[Tensor], gradients: Tensor, prefix: int, grid: tuple[int, int], coefficients: Tensor) -> Tensor:
    """The map of an objective.

    Args:
        values: V of each block, (B, H, T, d).
        gradients: what `layer_gradients` gives, (B, J, L, T, H d).
        prefix: tokens before the patch tokens.
        grid: (h, w) of the patches.
        coefficients: a_j, (B, S, J).

    Returns:
        (B, S, h, w) in [0, 1]; zero where no attention speaks for the objective.
    """
    maps = []
    # One image at a time: the derivatives by A are T times T for each head.
    for image, own in enumerate(gradients):
        combined = torch.tensordot(coefficients[image].to(own.dtype), own, 1)
        total = own.new_zeros(len(combined), own.shape[2])
        for layer, value in enumerate(values):
            by_attention = by_head(combined[:, layer], value.shape[1]) @ wide(value[image]).transpose(1, 2)
            total += by_attention.relu_().mean((1, 2))
        maps.append(total[:, prefix:])
    return spread(torch.stack(maps).unflatten(2, grid))


def prepare(context: BatchContext, settings: LeGrad) -> Cam:
    """The forward pass and the derivatives of each class, which serve all targets."""
    model, stack = context.model, stack_for("legrad", context.model.stack)
    seen = context.once("legrad forward", lambda whole: look(stack, whole.images, settings.layers))
    gradients = context.by_class("legrad", lambda whole: layer_gradients(model, stack, seen, whole.classes))
    raw = partial(legrad, [part.value for part in seen], gradients, stack.prefix, context.grid)
    # Every layer has logits of its own: the shares of `weighting: probability` are the image's, as constants.
    return Cam(raw, context.weights("probability_detached"))


LEGRAD = Method(
    "legrad",
    "sum_layers mean_heads,queries ReLU(ds/d attention)",
    prepare,
    LeGrad(),
    cost="ViTs of plain blocks",
    refusal=lambda classifier, _concepts: needs_stack("legrad", classifier.stack),
)
