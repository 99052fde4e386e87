"""What metrics are computed from: a batch, and what the model says of it while pixels go or come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from finer_ray.lazy import Tensor, torch
from finer_ray.metrics.metric import MapContext, Metric
from finer_ray.metrics.perturbation import ranks, replaced
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.objective import class_probabilities
from finer_ray.saliency.split_classifier import SplitClassifier

if TYPE_CHECKING:
    from finer_ray.config.schema import MetricsConfig


@dataclass(frozen=True)
class MetricContext(MapContext[Tensor]):
    """A batch of B images with M maps each; J = 1 + K classes, the target first.

    Attributes:
        model: the classifier.
        images: (B, 3, H, W) float, normalised.
        classes: (B, J) int64; -1 means none.
        logits: (B, C) of the images.
        config: the section `metrics`.
        metrics: all that are computed of this batch, so that their masked images share forward passes.
        fill: from images and a kind of `metrics.fill` to what replaces their pixels, (B or 1, 3, H or 1, W or 1).
        memory: bytes that masked images may take at a time, see `finer_ray.saliency.budget`.
    """

    model: SplitClassifier
    images: Tensor
    classes: Tensor
    logits: Tensor
    config: "MetricsConfig"
    metrics: Sequence[Metric]
    fill: Callable[[Tensor, str], Tensor]
    memory: int
    _made: dict[str, Tensor] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        """H * W."""
        return self.images[0, 0].numel()

    @cached_property
    def before(self) -> Tensor:
        """Probabilities of the images themselves, (B, J); NaN for concepts and absent references."""
        return class_probabilities(self.model, self.logits, self.classes)

    def deleted(self, counts: Sequence[int]) -> Tensor:
        """Probabilities with some of the most salient pixels replaced by `metrics.fill`.

        Args:
            counts: how many, S of them, each among the metric's own `Metric.deleted`.

        Returns:
            (B, M, S, J).
        """
        return self._changed("deleted", counts)

    def inserted(self, counts: Sequence[int]) -> Tensor:
        """Probabilities with some of the most salient pixels put back into `metrics.insert_into`.

        Args:
            counts: how many, S of them, each among the metric's own `Metric.inserted`.

        Returns:
            (B, M, S, J).
        """
        return self._changed("inserted", counts)

    def blank(self, kind: str) -> Tensor:
        """Probabilities where all is fill, (B, J): the same of every map; of every image, too, if it is a colour."""
        if kind not in self._made:
            empty = self.fill(self.images, kind)
            empty = empty.expand(len(empty), *self.images.shape[1:])
            logits = torch.cat([self.model(part) for part in empty.split(in_flight(self.images, self.memory))])
            expanded = logits.expand(len(self.images), -1)
            self._made[kind] = class_probabilities(self.model, expanded, self.classes)
        return self._made[kind]

    def _changed(self, what: str, counts: Sequence[int]) -> Tensor:
        """Of what all metrics ask for, made once, the part that one asks for."""
        asked = (getattr(metric, what) for metric in self.metrics)
        every = sorted({count for wanted in asked if wanted for count in wanted(self.config.steps, self.pixels)})
        if what not in self._made:
            self._made[what] = self._replaced(what == "deleted", every)
        # A list as an index would make a GPU be waited for.
        places = torch.tensor([every.index(count) for count in counts], dtype=torch.long)
        return self._made[what].index_select(2, places.to(self.images.device, non_blocking=True))

    def _replaced(self, deleted: bool, counts: list[int]) -> Tensor:
        fill = self.fill(self.images, self.config.fill if deleted else self.config.insert_into).expand_as(self.images)
        images, fill = (self.images, fill) if deleted else (fill, self.images)
        return replaced(self._probabilities, images, fill, self._order, counts, self.memory)

    @cached_property
    def _order(self) -> Tensor:
        return ranks(self.maps, (self.images.shape[2], self.images.shape[3]), self.registration)

    def _probabilities(self, masked: Tensor, owner: Tensor) -> Tensor:
        return class_probabilities(self.model, self.model(masked), self.classes[owner])
