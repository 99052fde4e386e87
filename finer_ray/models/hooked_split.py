"""Splits at any module of an encoder.

The library's own forward pass runs as it is. When it reaches the module, the module's output is put into a leaf, and
from there on autograd records: one pass, nothing computed twice, and a tail that is the library's own code.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finer_ray.models.cells import cells
from finer_ray.models.cut import Cut
from finer_ray.models.split import Split, Unsupported
from finer_ray.saliency.block_stack import BlockStack
from finer_ray.saliency.objective import wide
from finer_ray.saliency.split_classifier import Attention


@dataclass
class Pass:
    """A forward pass through a hooked encoder.

    Attributes:
        split: whose hooks act.
        replace: what takes the place of the layer's output, from that output; None leaves it.
        met: how often the layer has been met.
        read: what the classifiers were given, (B, E) each.
    """

    split: "HookedSplit"
    replace: Callable[[Tensor], Tensor] | None
    met: int = 0
    read: list[Tensor] = field(default_factory=list)


# Of each thread, so that threads may share an encoder.
PASS: ContextVar[Pass | None] = ContextVar("pass", default=None)


class Stop(Exception):
    """Ends a forward pass at the layer."""


class HookedSplit(Split):
    """An encoder cut at the output of one of its modules.

    Args:
        encoder: the library's own module.
        layer: the module's name in it, which runs once in a forward pass; its output is a map or tokens, or a tuple
            that begins with them.
        classifiers: the modules that make the logits of the embedding, which is what they are given, one beside the
            other; none where the encoder's output is the embedding.
        prefix: tokens before the patch tokens that the encoder's layers usually have.
        channels_last: whether a map that could be read in both ways has its channels last.
        patch: see `Split`.
        beside: the split of the same encoder whose forward, side stream and stack these are.

    Raises:
        Unsupported: no such module.
    """

    compilable = False

    def __init__(
        self,
        encoder: Any,
        layer: str,
        classifiers: Sequence[nn.Module] = (),
        prefix: int = 0,
        channels_last: bool = False,
        patch: tuple[int, int] | None = None,
        beside: Split | None = None,
    ) -> None:
        super().__init__(encoder, classifiers)
        self.layer, self.prefix, self.channels_last, self.patch = layer, prefix, channels_last, patch
        layers = [module for module in encoder.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        mostly = 2 * sum(isinstance(module, nn.Conv2d) for module in layers) > len(layers)
        self.convolutional = mostly if beside is None else beside.convolutional
        # In a tuple, because the parameters already stand in the module tree under `encoder`.
        self._beside = (beside,)
        encoder.get_submodule(layer).register_forward_hook(self._meet)
        for classifier in self.classifiers:
            classifier.register_forward_pre_hook(self._read)

    def forward(self, images: Tensor) -> Tensor:
        """As `Split.forward`."""
        (beside,) = self._beside
        return super().forward(images) if beside is None else beside(images)

    # Inference mode and autograd are not for the compiler.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def cut(self, images: Tensor) -> Cut:
        """As `Split.cut`."""
        leaves = []

        def record(output: Tensor) -> Tensor:
            # Neither what comes before nor what comes after may write over the leaf.
            leaf = wide(output.detach()).clone().requires_grad_()
            leaves.append(leaf)
            torch.set_grad_enabled(True)
            return leaf.clone()

        with torch.inference_mode(False), torch.no_grad():
            embedding = self._run(images, record)
        size = (images.shape[2], images.shape[3])
        return Cut(leaves[0], embedding, partial(self.grid, size=size))

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """As `Split.embed`."""
        return self._run(images)

    def encode(self, images: Tensor) -> Tensor:
        """As `Split.encode`."""
        return self._run(images)

    def trunk(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output, and the images, of which `tail` makes the rest."""
        found = []

        def stop(output: Tensor) -> Tensor:
            found.append(output)
            raise Stop

        with suppress(Stop):
            self._run(images, stop)
        return found[0], images

    def tail(self, activation: Tensor, residual: Tensor | None) -> Tensor:
        """The embedding, were the layer's output another. Unlike `cut` it runs the whole encoder.

        Args:
            activation: in place of the layer's output.
            residual: the images, as `trunk` gives them.
        """
        if residual is None:
            raise TypeError("a hooked split's tail needs the images beside the activation")
        return self._run(residual, lambda _output: activation)

    def grid(self, activation: Tensor, size: tuple[int, int]) -> Tensor:
        """As `Split.grid`, by the shape of what the layer gives."""
        found = cells(activation, size, self.prefix, self.channels_last)
        if found is None:
            raise Unsupported(
                f"the output of {self.layer!r} is no map or row of tokens in the images' aspect, but of shape "
                f"{tuple(activation.shape)} for {size[0]}x{size[1]} pixels: choose a block, or a norm inside one"
            )
        return found

    def refusal(self, layer: str) -> str | None:
        """As `Split.refusal`."""
        (beside,) = self._beside
        return None if beside is None else beside.refusal(layer)

    @property
    def side_blocks(self) -> int:
        """As `Split.side_blocks`."""
        (beside,) = self._beside
        return 0 if beside is None else beside.side_blocks

    @property
    def stack(self) -> BlockStack | None:
        """As `Split.stack`."""
        (beside,) = self._beside
        return None if beside is None else beside.stack

    def side_stream(self, images: Tensor, attention: Attention, blocks: int) -> Tensor:
        """As `Split.side_stream`."""
        (beside,) = self._beside
        stream = super().side_stream if beside is None else beside.side_stream
        return stream(images, attention, blocks)

    def _run(self, images: Tensor, replace: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The embedding, (B, E)."""
        current = Pass(self, replace)
        token = PASS.set(current)
        try:
            output: Tensor = self(images)
        finally:
            PASS.reset(token)
        if replace is not None and current.met != 1:
            raise Unsupported(
                f"{self.layer!r} is called {current.met} times in a forward pass, and must be once: choose a module "
                "inside or around it"
            )
        if not self.classifiers:
            return output
        return torch.cat(current.read, dim=1)

    def _meet(self, _module: nn.Module, _given: Any, output: Any) -> Any:
        """The layer's hook."""
        current = PASS.get()
        if current is None or current.split is not self or current.replace is None:
            return None
        current.met += 1
        if current.met > 1:
            return None
        first, *others = output if isinstance(output, tuple) else (output,)
        if not isinstance(first, Tensor):
            raise Unsupported(f"the output of {self.layer!r} is no tensor: choose a block, or a norm inside one")
        replaced = current.replace(first)
        return (replaced, *others) if isinstance(output, tuple) else replaced

    def _read(self, _module: nn.Module, given: tuple[Tensor, ...]) -> None:
        """The classifiers' hook."""
        current = PASS.get()
        if current is not None and current.split is self:
            current.read.append(given[0].flatten(1))
