"""Randomising a classifier from its head down, part by part (Adebayo et al. 2018, cascading randomisation).

A part is the head, a block, or what an architecture has in their place. The values of each of its tensors are permuted:
of any architecture that leaves nothing of what was learned but the distribution of the values, so that activations keep
their scale. (A library's own initialisation is not at hand: what `reset_parameters` gives is torch's for the layer, not
the model's.) Running statistics of a randomised batch normalisation would be those of activations that are no more,
and are measured anew, see `recalibrate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finer_ray.models.classifier import Classifier
from finer_ray.models.head import JoinedHead
from finer_ray.models.split import Split

# A name that no module has.
HEAD, WHOLE = "the head", ""
# A module with more than this share of the encoder's parameters is no part, but divided.
LARGEST = 0.5


@dataclass(frozen=True)
class Part:
    """What is randomised together.

    Attributes:
        name: `the head`, or of a module of the encoder.
        tensors: the model's own, of any shape.
        norms: the batch normalisations with running statistics among its modules.
    """

    name: str
    tensors: tuple[Tensor, ...]
    norms: tuple[_BatchNorm, ...] = ()


def parts_of(classifier: Classifier, image: Tensor) -> list[Part]:
    """The parts of a classifier: the head, then those of the encoder from the last in a forward pass to the first.

    Lists of modules are divided into their items. Layers with vectors alone (norms) belong to the part before them, and
    parameters of no layer (position embeddings, class tokens, projections) to the part that first depends on them, or
    where only the embedding does to the last one. What a forward pass does not use is in none.

    Args:
        classifier: any, see `build_classifier`.
        image: any, (1, 3, H, W), on the classifier's device.

    >>> from finer_ray.config.schema import ModelConfig
    >>> from finer_ray.models import build_classifier
    >>> model = build_classifier(ModelConfig(backbone="timm:test_vit", weights="random", image_size=64))
    >>> [part.name for part in parts_of(model, torch.zeros(1, 3, 64, 64))]
    ['the head', 'blocks.5', 'blocks.4', 'blocks.3', 'blocks.2', 'blocks.1', 'blocks.0', 'patch_embed.proj']
    """
    split, head = classifier.split, classifier.head
    heads = (head.classes, head.concepts) if isinstance(head, JoinedHead) else (head,)
    modules = dict(_divided(split.encoder, "", LARGEST * _size(split.encoder)))
    # The library's own copy of the classifier plays no part in what is explained.
    seen = {id(tensor) for module in split.classifiers for tensor in module.parameters()}
    tensors: dict[str, list[Tensor]] = {}
    part_of: dict[str, str] = {}
    for name in filter(None, _forward(split, modules, image)):
        own: list[Tensor] = [tensor for tensor in modules[name].parameters() if id(tensor) not in seen]
        if not own:
            continue
        is_norm = bool(tensors) and all(tensor.ndim < 2 for tensor in own)
        part_of[name] = next(reversed(tensors)) if is_norm else name
        tensors.setdefault(part_of[name], []).extend(own)
        seen.update(map(id, own))
    for tensor in split.encoder.parameters():
        if id(tensor) not in seen and (readers := _readers(split, modules, tensor, image)):
            tensors[next((part_of[name] for name in readers if name in part_of), next(reversed(tensors)))].append(
                tensor
            )
    found = [Part(HEAD, tuple(tensor for one in heads for tensor in (one.weight, one.bias)))]
    for name, own in reversed(tensors.items()):
        found.append(Part(name, tuple(own), tuple(_norms(split, own))))
    return found


@torch.no_grad()
def randomise(part: Part, generator: torch.Generator) -> None:
    """Permute the values of each of a part's tensors, in place.

    Args:
        part: of the classifier that is changed.
        generator: of the permutations, on the CPU: they are the same on all devices.
    """
    for tensor in part.tensors:
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        tensor.copy_(tensor.flatten()[order].view_as(tensor))


def recalibrate(split: Split, norms: Sequence[_BatchNorm], batches: Sequence[Tensor]) -> None:
    """Measure the running statistics of batch normalisations anew: means over the batches, all other layers as in use.

    Args:
        split: whose normalisations they are.
        norms: that are changed; the statistics of others stay.
        batches: of images, (B, 3, H, W) each.
    """
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            # The plain mean over batches.
            norm.momentum = None
            norm.train()
        for images in batches:
            split.embed(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _size(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def _divided(module: nn.Module, name: str, largest: float) -> Iterator[tuple[str, nn.Module]]:
    """The modules with parameters that an encoder is divided into, by name; no two hold the same one."""
    children = [(path, child) for path, child in module.named_children() if _size(child)]
    # One that holds a list of blocks; a sequence of layers alone is a block.
    wrapper = len(children) == 1 and type(children[0][1]) is not nn.Sequential
    wrapper = wrapper and not list(module.parameters(recurse=False))
    listed = type(module) in (nn.Sequential, nn.ModuleList)
    if not children or (name and not wrapper and not listed and _size(module) <= largest):
        yield name, module
        return
    for path, child in children:
        yield from _divided(child, f"{name}.{path}" if name else path, largest)


def _forward(split: Split, modules: Mapping[str, nn.Module], image: Tensor) -> dict[str, bool]:
    """A forward pass of the library's own: names of the modules that ran, in order, and at last "" for the whole; each
    with whether its output has a graph."""
    found: dict[str, bool] = {}

    def note(name: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        found.setdefault(name, isinstance(first, Tensor) and first.requires_grad)

    hooks = [
        module.register_forward_hook(lambda _module, _given, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        note(WHOLE, split(image))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.enable_grad()
def _readers(split: Split, modules: Mapping[str, nn.Module], tensor: Tensor, image: Tensor) -> list[str]:
    """Names of the modules whose output depends on a parameter, in order, and "" for the whole."""
    tensor.requires_grad_(True)
    try:
        return [name for name, depends in _forward(split, modules, image).items() if depends]
    finally:
        tensor.requires_grad_(False)


def _norms(split: Split, tensors: Sequence[Tensor]) -> Iterator[_BatchNorm]:
    """The batch normalisations with running statistics whose weights are among some tensors."""
    own = set(map(id, tensors))
    for module in split.encoder.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and id(module.weight) in own:
            yield module
