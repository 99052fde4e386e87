"""Chefer's relevance for ViTs, by the rule of "Generic Attention-model Explainability" (Chefer et al. 2021).

    R = I;  for each block, the first first:  R <- R + mean over heads of ReLU(ds/dA * A) R
    map = the mean of R's rows of the pooled tokens (the class token's alone where it is pooled), at the patches

A is a block's attention (heads, queries, keys). Only those rows of R are needed, and they are found from the last block
to the first: r <- r + r mean_heads ReLU(ds/dA * A). What r began with is taken off again, so that where nothing speaks
for s the map is zero; for a pooled class token that changes nothing.
"""

from collections.abc import Callable
from functools import partial

from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.block_stack import Attended, BlockStack, by_head, needs_stack, stack_for
from finer_ray.saliency.budget import GRAPH_FOOTPRINT, in_flight
from finer_ray.saliency.method import BatchContext, Cam, Method
from finer_ray.saliency.objective import wide
from finer_ray.saliency.split_classifier import SplitClassifier


def trace(model: SplitClassifier, stack: BlockStack, images: Tensor) -> tuple[Tensor, list[Attended]]:
    """One forward pass, with a graph from the logits down to the output of the first block's attention.

    Args:
        model: for its head.
        stack: the ViT's.
        images: (n, 3, H, W), normalised.

    Returns:
        Logits (n, C), and the attention of every block.
    """
    tokens = stack.enter(images).detach()
    blocks: list[Attended] = []
    with torch.enable_grad():
        for block in stack.blocks:
            attended = block.attend(tokens)
            if not blocks:
                attended.mixed.requires_grad_()
            blocks.append(attended)
            tokens = block.merge(tokens, attended.mixed)
        return model.head(stack.embed(tokens)), blocks


def relevance(stack: BlockStack, blocks: list[Attended], gradients: tuple[Tensor, ...]) -> Tensor:
    """The mean of R's rows of the pooled tokens, less that of I, at the patches.

    Args:
        stack: the ViT's.
        blocks: of every block, what `trace` gives.
        gradients: ds / d mixed of every block, (B, T, H d).

    Returns:
        (B, h*w) float32 at least, non-negative.
    """
    first = wide(blocks[0].mixed.detach()).new_zeros(blocks[0].mixed.shape[:2])
    first[:, stack.pooled] = 1
    first /= first.sum(1, keepdim=True)
    row = first
    for attended, gradient in zip(reversed(blocks), reversed(gradients), strict=True):
        query, key, value = (wide(part.detach()) for part in (attended.query, attended.key, attended.value))
        heads, size = query.shape[1], query.shape[3]
        attention = (query * size**-0.5 @ key.transpose(2, 3)).softmax(3)
        by_attention = by_head(wide(gradient), heads) @ value.transpose(2, 3)
        row = row + (row[:, None] @ (by_attention * attention).relu_().mean(1))[:, 0]
    return (row - first)[:, stack.prefix :]


def chefer(
    stack: BlockStack,
    traced: Callable[[Tensor], tuple[Tensor, list[Attended]]],
    images: Tensor,
    classes: Tensor,
    grid: tuple[int, int],
    memory: int,
    coefficients: Tensor,
) -> Tensor:
    """The maps of objectives: a forward pass, and a backward pass for each.

    Args:
        stack: the ViT's.
        traced: from images (n, 3, H, W) to what `trace` gives.
        images: (B, 3, H, W), normalised.
        classes: (B, J) int64; -1 means none.
        grid: (h, w) of the patches.
        memory: bytes that images and the graph may take, see `finer_ray.saliency.budget`.
        coefficients: a_j, (B, S, J).

    Returns:
        (B, S, h, w) non-negative.
    """
    maps, step = [], in_flight(images, memory, GRAPH_FOOTPRINT)
    for some, wanted, weights in zip(*(each.split(step) for each in (images, classes, coefficients)), strict=True):
        logits, blocks = traced(some)
        with torch.enable_grad():
            chosen = wide(logits).gather(1, wanted.clamp(min=0))
            # Images do not interact: the derivative of an objective's sum over them is that of each.
            scores = (weights.to(chosen.dtype) * chosen[:, None]).sum((0, 2)).unbind()
        mixed = [attended.mixed for attended in blocks]
        each = (relevance(stack, blocks, torch.autograd.grad(score, mixed, retain_graph=True)) for score in scores)
        maps.append(torch.stack(list(each), dim=1))
    drawn: Tensor = torch.cat(maps).unflatten(2, grid)
    return drawn


def prepare(context: BatchContext, _settings: None) -> Cam:
    """Each objective has a pass of its own: the derivatives of all classes by all blocks would fill the memory."""
    stack, images = stack_for("chefer", context.model.stack), context.images
    # Maps are drawn in full precision: but the model runs in the caller's.
    kind = images.device.type
    precision = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
    traced = precision(partial(trace, context.model, stack))
    return Cam(partial(chefer, stack, traced, images, context.classes, context.grid, context.memory))


CHEFER = Method(
    "chefer",
    "rows of R at the pooled tokens; by block R += mean_heads ReLU(ds/d attention * attention) R",
    prepare,
    cost="ViTs of plain blocks",
    masked_passes=True,
    refusal=lambda classifier, _concepts: needs_stack("chefer", classifier.stack),
)
