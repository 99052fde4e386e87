"""Scoring: the metrics that the config wants, for every image and map of a batch."""

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from finer_ray.config.schema import MetricsConfig
from finer_ray.metrics.context import MetricContext
from finer_ray.metrics.perturbation import where_ordered
from finer_ray.metrics.table import METRICS
from finer_ray.models import Classifier
from finer_ray.saliency import Explanation
from finer_ray.saliency.registration import Registration

# RISE's: a kernel of 11 pixels with a deviation of 5, at whatever size the image has.
BLUR = (11, 5.0)


class Scorer:
    """Metrics of a batch, with one model.

    Args:
        wanted: the section `metrics`.
        model: that is explained.
        device: that it is on.
        memory: as the attribute.
        registration: of its maps; None: stretched.

    Attributes:
        memory: bytes that masked images may take at a time.
    """

    def __init__(
        self,
        wanted: MetricsConfig,
        model: Classifier,
        device: torch.device,
        memory: int,
        registration: Registration | None = None,
    ) -> None:
        self._config, self._model, self.memory, self._registration = wanted, model, memory, registration
        self._metrics = [metric for metric in METRICS.values() if getattr(wanted, metric.switch.name)]
        mean, std = (torch.tensor(values, device=device) for values in (model.transform.mean, model.transform.std))
        black, white = (-mean / std).view(1, 3, 1, 1), ((1 - mean) / std).view(1, 3, 1, 1)
        self._colours = {"mean": torch.zeros_like(black), "black": black, "white": white}

    def __call__(self, images: Tensor, explanation: Explanation, region: Tensor | None) -> dict[str, Tensor]:
        """The columns of the table `metrics`, (B, M) or (B, M, K) each; NaN where a metric does not apply. Where there
        are several targets, an axis of them stands behind that of the images.

        Args:
            images: (B, 3, H, W), normalised.
            explanation: of these images.
            region: (B, H, W) bool, empty where an image has none; or None.
        """
        if explanation.target.ndim == 1:
            return self._of_target(images, explanation, region)
        each = []
        for own in explanation.by_target():
            scores = self._of_target(images, own, region)
            absent = own.target < 0
            each.append({name: _nowhere(values, absent) for name, values in scores.items()})
        return {name: torch.stack([scores[name] for scores in each], dim=1) for name in each[0]}

    def _of_target(self, images: Tensor, explanation: Explanation, region: Tensor | None) -> dict[str, Tensor]:
        metrics = [metric for metric in self._metrics if region is not None or not metric.of_region]
        context = MetricContext(
            maps=explanation.maps,
            region=images.new_zeros((len(images), 0, 0), dtype=torch.bool) if region is None else region,
            model=self._model,
            images=images,
            classes=torch.cat([explanation.target[:, None], explanation.references], dim=1),
            logits=explanation.logits,
            config=self._config,
            metrics=metrics,
            fill=self._fill,
            memory=self.memory,
            registration=self._registration,
        )
        return {metric.name: where_ordered(metric.compute(context), explanation.maps) for metric in metrics}

    def _fill(self, images: Tensor, kind: str) -> Tensor:
        return gaussian_blur(images, BLUR[0], BLUR[1]) if kind == "blur" else self._colours[kind]


def _nowhere(values: Tensor, absent: Tensor) -> Tensor:
    """Scores (B, ...), NaN of images that lack the target (B,)."""
    return values.masked_fill(absent.reshape(-1, *[1] * (values.ndim - 1)), torch.nan)
