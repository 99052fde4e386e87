"""`model.cam_layer`: a split of the same encoder at another layer.

`final` is the layer whose cells are averaged and then mapped linearly to the logits. Its gradient is the same for every
cell and image, so that the map of a class is the exact share of each cell in the logit: the cells of M_j add up to
y^j without its bias. No pass through any block is needed for it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from finer_ray.config.messages import nearest
from finer_ray.models.cells import cells
from finer_ray.models.cut import Cut
from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.split import Split, Unsupported

DEFAULT, FINAL = "default", "final"
# Relative to the largest derivative: what float32 leaves of two that are the same.
SAME = 1e-3


def split_at(split: Split, layer: str, images: Tensor) -> Split:
    """A split cut at another layer.

    Args:
        split: of an encoder, at its usual layer.
        layer: default, final or the name of a module of the encoder.
        images: any two, (2, 3, H, W), for which the layer is tried.

    Raises:
        Unsupported: the layer cannot be explained; with what can.
    """
    if layer == DEFAULT:
        return split
    name = _final_layer(split, images) if layer == FINAL else layer
    modules = dict(split.encoder.named_modules())
    if name not in modules or not name:
        raise Unsupported(f"the encoder has no such module{nearest(name, list(modules))}; or: default, final")
    if isinstance(modules[name], nn.ModuleList | nn.ModuleDict):
        raise Unsupported(f"it is a list of modules: choose one of them, as {name}.{len(modules[name]) - 1}")
    if reason := split.refusal(name):
        raise Unsupported(reason)
    shape = (split.prefix, split.channels_last, split.patch)
    found = HookedSplit(split.encoder, name, split.classifiers, *shape, beside=split)
    whole = _derivative(found, images)
    derivative = found.grid(whole, (images.shape[2], images.shape[3]))
    if derivative.shape[2:].numel() == 1:
        raise Unsupported(f"the output of {name!r} has a single cell, which shows nothing: choose an earlier layer")
    if whole.any() and not derivative.any():
        raise Unsupported(
            f"no logit depends on the cells of {name!r} (after the last block a class token alone is pooled): choose "
            "an earlier layer, or model.pool: avg where the model can"
        )
    if layer == FINAL:
        _check_shares(whole, derivative, name)
    return found


def _final_layer(split: Split, images: Tensor) -> str:
    """The module that is the last in a forward pass to give a map or tokens."""
    found: list[str] = []
    size = (images.shape[2], images.shape[3])

    def look(name: str, output: Any) -> None:
        whole = isinstance(output, Tensor) and len(output) == len(images)
        grid = cells(output, size, split.prefix, split.channels_last) if whole else None
        if grid is not None and grid.shape[2:].numel() > 1:
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda _module, _given, output, name=name: look(name, output))
        for name, module in split.encoder.named_modules()
        if name
    ]
    try:
        split(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise Unsupported("no module gives a map or tokens")
    return found[-1]


def _derivative(split: HookedSplit, images: Tensor) -> Tensor:
    """Of the same random combination of the embedding for both images, by all that the layer gives."""
    cut: Cut = split.cut(images)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(cut.embedding.shape[1], generator=generator, dtype=cut.embedding.dtype)
    return cut.leaf_gradient(direction.expand(len(images), -1))


def _check_shares(whole: Tensor, derivative: Tensor, name: str) -> None:
    """Refuse a layer after which more comes than a mean over its cells and a linear map. Raises Unsupported.

    Args:
        whole: the derivative by all that the layer gives.
        derivative: of it what belongs to cells, (2, D, h, w).
        name: of the layer.
    """
    largest = derivative.abs().max()
    if (derivative - derivative[:, :, :1, :1]).abs().max() > SAME * largest:
        raise Unsupported(
            f"what pools the cells of {name!r} is no mean, so that they have no shares in the logits: use model.pool: "
            f"avg where the model can, or explain there by its gradients with cam_layer: {name}"
        )
    if whole.abs().sum() > (1 + SAME) * derivative.abs().sum():
        raise Unsupported(
            f"tokens without a place are pooled together with the cells of {name!r}, which so have no whole shares in "
            f"the logits: explain there by its gradients with cam_layer: {name}"
        )
    if (derivative[0] - derivative[1]).abs().max() > SAME * largest:
        raise Unsupported(
            f"what follows the pooling of {name!r} is not linear (a norm or an activation), so that cells have no "
            f"shares in the logits: explain there by its gradients with cam_layer: {name}"
        )
