"""Scoring: the metrics that the config wants, for every image and map of a batch."""

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from finer_ray.config.schema import MetricsConfig
from finer_ray.metrics import localisation, pointing_hit
from finer_ray.metrics.perturbation import (
    area,
    confidence_drop,
    ranks,
    relative_drop,
    replaced,
    step_counts,
    where_ordered,
)
from finer_ray.models import Classifier
from finer_ray.saliency import Explanation
from finer_ray.saliency.budget import in_flight
from finer_ray.saliency.objective import class_probabilities

# Shares of pixels masked for the drops, as in the paper, by the ending of their columns.
DROPS = {"05": 0.05, "10": 0.10}
# RISE's: a kernel of 11 pixels with a deviation of 5, at whatever size the image has.
BLUR = (11, 5.0)


class Scorer:
    """Metrics of a batch, with one model.

    Attributes:
        memory: bytes that masked images may take at a time.
    """

    def __init__(self, wanted: MetricsConfig, model: Classifier, device: torch.device, memory: int) -> None:
        self._wanted, self._model, self.memory = wanted, model, memory
        mean, std = (torch.tensor(values, device=device) for values in (model.transform.mean, model.transform.std))
        black, white = (-mean / std).view(1, 3, 1, 1), ((1 - mean) / std).view(1, 3, 1, 1)
        self._colours = {"mean": torch.zeros_like(black), "black": black, "white": white}

    def __call__(self, images: Tensor, explanation: Explanation, region: Tensor | None) -> dict[str, Tensor]:
        """The columns of the table `metrics`, (B, M) or (B, M, K) each; NaN where a metric does not apply.

        Args:
            images: (B, 3, H, W), normalised.
            explanation: of these images.
            region: (B, H, W) bool, empty where an image has none; or None.
        """
        columns: dict[str, Tensor] = {}
        if region is not None:
            columns["localisation"] = localisation(explanation.maps, region)
            columns["pointing_hit"] = pointing_hit(explanation.maps, region)
        if self._wanted.deletion or self._wanted.insertion or self._wanted.drops:
            made = self._perturbations(images, explanation)
            columns |= {name: where_ordered(values, explanation.maps) for name, values in made.items()}
        return columns

    def _perturbations(self, images: Tensor, explanation: Explanation) -> dict[str, Tensor]:
        classes = torch.cat([explanation.target[:, None], explanation.references], dim=1)
        count = self._model.class_count
        before = class_probabilities(explanation.logits, classes, count)
        order = ranks(explanation.maps, (images.shape[2], images.shape[3]))
        pixels = order[0, 0].numel()
        steps = step_counts(self._wanted.steps, pixels)

        def probabilities(masked: Tensor, owner: Tensor) -> Tensor:
            return class_probabilities(self._model(masked), classes[owner], count)

        def blank(kind: str) -> Tensor:
            """What is said where all is fill, (B, J): the same of every map; of every image, too, if it is a colour."""
            empty = self._fill(images, kind)
            empty = empty.expand(len(empty), *images.shape[1:])
            logits = torch.cat([self._model(part) for part in empty.split(in_flight(images, self.memory))])
            return class_probabilities(logits.expand(len(images), -1), classes, count)

        columns: dict[str, Tensor] = {}
        drops = {name: round(share * pixels) for name, share in DROPS.items()} if self._wanted.drops else {}
        # The last step is known from elsewhere: of deletion a blank, of insertion the image itself.
        counts = sorted({*drops.values(), *(steps[:-1] if self._wanted.deletion else [])})
        if counts or self._wanted.deletion:
            after = replaced(probabilities, images, self._fill(images, self._wanted.fill), order, counts, self.memory)
            for name, masked in drops.items():
                columns |= _drop_columns(name, before[:, None], after[:, :, counts.index(masked)], classes[:, None, 1:])
            if self._wanted.deletion:
                # A list as an index would make the GPU be waited for.
                places = torch.tensor([counts.index(step) for step in steps[:-1]], dtype=torch.long)
                curve = after[..., 0].index_select(2, places.to(after.device, non_blocking=True))
                columns |= _curve_columns("deletion", before[:, 0], curve, blank(self._wanted.fill)[:, 0])
        if self._wanted.insertion:
            start = self._fill(images, self._wanted.insert_into).expand_as(images)
            curve = replaced(probabilities, start, images, order, steps[:-1], self.memory)[..., 0]
            columns |= _curve_columns("insertion", blank(self._wanted.insert_into)[:, 0], curve, before[:, 0])
        return columns

    def _fill(self, images: Tensor, kind: str) -> Tensor:
        return gaussian_blur(images, BLUR[0], BLUR[1]) if kind == "blur" else self._colours[kind]


def _curve_columns(name: str, start: Tensor, between: Tensor, end: Tensor) -> dict[str, Tensor]:
    """A curve of the target and the area under it: start and end (B,), between (B, M, n - 1)."""
    ends = (value[:, None, None].expand(*between.shape[:2], 1) for value in (start, end))
    curve = torch.cat([next(ends), between, next(ends)], dim=2)
    return {f"{name}_auc": area(curve), f"{name}_curve": curve}


def _drop_columns(name: str, before: Tensor, after: Tensor, references: Tensor) -> dict[str, Tensor]:
    """Drops at one share: before (B, 1, J), after (B, M, J), references (B, 1, K)."""
    before = before.expand_as(after)
    return {
        f"relative_drop_{name}": relative_drop(before, after, (references >= 0).expand_as(after[..., 1:])),
        f"confidence_drop_{name}": confidence_drop(before[..., 0], after[..., 0]),
        f"probability_{name}": after[..., 0],
        f"reference_probabilities_{name}": after[..., 1:],
    }
