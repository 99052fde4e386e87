"""What a CAM method is: one object, defined in a module of its own and listed in `finer_ray.saliency.methods`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

from finer_ray.config.section import Section
from finer_ray.errors import ConfigError
from finer_ray.lazy import Tensor, torch
from finer_ray.saliency.objective import reference_weights
from finer_ray.saliency.registration import Registration
from finer_ray.saliency.spec import FINER
from finer_ray.saliency.split_classifier import SplitClassifier

Made = TypeVar("Made")


@dataclass(frozen=True)
class BatchContext:
    """What maps of a batch are computed from: B images, J = 1 + K classes each, the target first.

    Where several targets of an image are explained, there is one for each, made by `of` from one of all their classes.

    Attributes:
        model: the classifier, cut at its CAM layer.
        images: (B, 3, H, W) float, normalised.
        activation: A of the CAM layer, (B, D, h, w), float32 at least.
        basis: Grad-CAM's maps before ReLU, (B, J, h, w), finite.
        gradients: d y^j / dA of every cell, (B, J, D, h, w), finite; None where no method of the job needs it.
        logits: y^j of the images themselves, (B, J).
        classes: (B, J) int64; -1 means none.
        memory: bytes that masked images may take at a time, see `finer_ray.saliency.budget`.
        registration: where in the images' pixels the cells of the grid have their centres; None: stretched.
    """

    model: SplitClassifier
    images: Tensor
    activation: Tensor
    basis: Tensor
    gradients: Tensor | None
    logits: Tensor
    classes: Tensor
    memory: int
    registration: Registration | None = None
    _all: Self | None = None
    _places: Tensor | None = None
    _made: dict[str, Any] = field(default_factory=dict)

    def of(self, places: Tensor) -> Self:
        """One target of each image, with its references, out of all classes.

        Args:
            places: (B, 1 + K) int64, where they are among this context's classes.
        """
        gradients = None if self.gradients is None else taken(self.gradients, places)
        return replace(
            self,
            basis=taken(self.basis, places),
            gradients=gradients,
            logits=taken(self.logits, places),
            classes=taken(self.classes, places),
            _all=self,
            _places=places,
        )

    def by_class(self, name: str, compute: Callable[[Self], Tensor], axis: int = 1) -> Tensor:
        """What a method computes of each class by itself at a cost that all targets can share, as masked passes are.

        Args:
            name: of the method.
            compute: from a context to a tensor whose `axis` are the context's classes; called once, whatever the number
                of targets, with the context of all their classes.
            axis: of the classes, 1 or more; the images' is 0.

        Returns:
            What `compute` gives, of this context's J classes.
        """
        if self._places is None:
            return compute(self)
        return taken(self.once(name, compute), self._places, axis)

    def once(self, name: str, compute: Callable[[Self], Made]) -> Made:
        """What a method computes of the images themselves, whatever their classes are, and all targets share.

        Args:
            name: of it, which no other call of any method has.
            compute: from a context, of which it leaves the classes alone; called once.
        """
        whole = self if self._all is None else self._all
        if name not in whole._made:
            whole._made[name] = compute(whole)
        made: Made = whole._made[name]
        return made

    @property
    def every_gradient(self) -> Tensor:
        """`gradients`, of which a method with `cell_gradients` is sure.

        Raises:
            ValueError: they were not computed.
        """
        if self.gradients is None:
            raise ValueError("a method that takes the gradients of every cell says so: `Method.cell_gradients`")
        return self.gradients

    @property
    def present(self) -> Tensor:
        """(B, K) bool, which references there are."""
        return self.classes[:, 1:] >= 0

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the maps."""
        return self.activation.shape[2], self.activation.shape[3]

    def weights(self, weighting: str) -> Tensor:
        """(B, K) of the references, by the logits of the images themselves; see `reference_weights`."""
        return reference_weights(self.logits[:, 1:], self.present, weighting)


def taken(values: Tensor, places: Tensor, axis: int = 1) -> Tensor:
    """Some of each image's classes.

    Args:
        values: (B, ...), with J classes along `axis`.
        places: (B, n) int64, each in 0 to J - 1.
        axis: of the classes, 1 or more.

    Returns:
        The same with n classes along `axis`.
    """
    images = torch.arange(len(places), device=places.device)[:, None]
    return values.movedim(axis, 1)[images, places].movedim(1, axis).contiguous()


@dataclass(frozen=True)
class Cam:
    """A method prepared for a batch: what does not depend on the objective is computed, and serves all of its maps.

    Attributes:
        raw: from the coefficients a_j of objectives s = sum_j a_j y^j, (B, S, J), to their maps before the last ReLU,
            (B, S, h, w).
        weights: of the references for `weighting: probability`, (B, K), or (B, D, K) where they differ by channel;
            None where `raw` is made of derivatives of s, and the weights are those of `reference_weights`.
    """

    raw: Callable[[Tensor], Tensor]
    weights: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """A CAM method.

    Attributes:
        name: by which a config asks for it: a map of this name is its baseline, `finer_NAME` compares.
        formula: of the map before its last ReLU, in plain text; for the documentation.
        prepare: from a batch and the settings to the method's `Cam`; called without gradients and under the caller's
            autocast. It may use the model as it likes.
        settings: with their defaults; they become the config's section `saliency.NAME`. None: there are none.
        cost: beyond one forward pass and 1 + K products through the tail; for the documentation.
        cell_gradients: whether `BatchContext.gradients` is needed.
        masked_passes: whether images go through the model anew, masked or with a graph, which takes up to
            `BatchContext.memory`.
        refusal: from a classifier, and whether it is asked about concepts, to why the method cannot explain it; None
            where it can.
    """

    name: str
    formula: str
    prepare: Callable[[BatchContext, Any], Cam]
    settings: Section | None = None
    cost: str = ""
    cell_gradients: bool = False
    masked_passes: bool = False
    refusal: Callable[[SplitClassifier, bool], str | None] = lambda _classifier, _concepts: None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name.startswith(FINER):
            raise ConfigError(
                f"a CAM method cannot be called {self.name!r}: letters, digits and _, and no {FINER!r} first"
            )
