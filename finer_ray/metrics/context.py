"""What metrics are computed from: a batch, and what the model says of it while pixels go or come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from finer_ray.lazy import Tensor, torch
from finer_ray.metrics.imputation import impute
from finer_ray.metrics.metric import MapContext, Masking, Metric
from finer_ray.metrics.perturbation import masked, random_ranks, ranks, replacing
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.gem import spread
from finer_ray.saliency.objective import class_probabilities
from finer_ray.saliency.registration import draw
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
    _masked: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def pixels(self) -> int:
        """H * W."""
        return self.images[0, 0].numel()

    @cached_property
    def before(self) -> Tensor:
        """Probabilities of the images themselves, (B, J); NaN for concepts and absent references."""
        return class_probabilities(self.model, self.logits, self.classes)

    def masked(self, masking: Masking) -> Tensor:
        """Probabilities of the images with some of their pixels gone.

        Args:
            masking: one of the metric's own `Metric.masks`, which says how many, S times.

        Returns:
            (B, M, S, J); with `first: random` (B, 1, S, J).
        """
        what = self._what(masking)
        asked = (other for metric in self.metrics for other in metric.masks if self._what(other) == what)
        every = sorted({count for other in asked for count in other.counts(self.config.steps, self.pixels)})
        if what not in self._masked:
            self._masked[what] = self._run(*what, every)
        # A list as an index would make a GPU be waited for.
        counts = masking.counts(self.config.steps, self.pixels)
        places = torch.tensor([every.index(count) for count in counts], dtype=torch.long)
        return self._masked[what].index_select(2, places.to(self.images.device, non_blocking=True))

    def blank(self, kind: str) -> Tensor:
        """Probabilities where all is fill, (B, J): the same of every map; of every image, too, if it is a colour."""
        if kind not in self._made:
            empty = self.fill(self.images, kind)
            empty = empty.expand(len(empty), *self.images.shape[1:])
            logits = torch.cat([self.model(part) for part in empty.split(in_flight(self.images, self.memory))])
            expanded = logits.expand(len(self.images), -1)
            self._made[kind] = class_probabilities(self.model, expanded, self.classes)
        return self._made[kind]

    @cached_property
    def multiplied(self) -> Tensor:
        """Probabilities of each image times each map, (B, M, J): fill where the map is lowest, the image where highest.

        Maps are scaled from their lowest to their highest value, and then drawn.
        """
        size = self.images.shape[2], self.images.shape[3]
        share = draw(spread(self.maps), size, self.registration).to(self.images.dtype)
        fill = self.fill(self.images, self.config.fill).expand_as(self.images)
        batch, maps = share.shape[:2]
        found = []
        for rows in torch.arange(batch * maps, device=share.device).split(in_flight(self.images, self.memory)):
            owner = rows // maps
            mixed = fill[owner].lerp(self.images[owner], share.flatten(0, 1)[rows, None])
            found.append(self._probabilities(mixed, owner))
        probabilities: Tensor = torch.cat(found).unflatten(0, (batch, maps))
        return probabilities

    def _what(self, masking: Masking) -> tuple[str, str]:
        """In which order pixels go, and what takes their place: masked images that have both in common are shared."""
        fill = masking.fill if masking.fill == "neighbours" else getattr(self.config, masking.fill)
        return masking.first, fill

    def _run(self, first: str, fill: str, counts: list[int]) -> Tensor:
        order = self._random if first == "random" else self._order
        if first == "least":
            order = self.pixels - 1 - order
        change = self._impute if fill == "neighbours" else replacing(self.images, self.fill(self.images, fill))
        return masked(self._probabilities, self.images, change, order, counts, self.memory)

    def _impute(self, owner: Tensor, gone: Tensor) -> Tensor:
        return impute(self.images[owner], gone)

    @cached_property
    def _order(self) -> Tensor:
        return ranks(self.maps, (self.images.shape[2], self.images.shape[3]), self.registration)

    @cached_property
    def _random(self) -> Tensor:
        return random_ranks(self.images, (self.maps.shape[2], self.maps.shape[3]), self.registration)

    def _probabilities(self, masked: Tensor, owner: Tensor) -> Tensor:
        return class_probabilities(self.model, self.model(masked), self.classes[owner])
