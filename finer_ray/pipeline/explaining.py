"""Explaining stage: an actor that holds the model and explains units, on a GPU where there is one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from finer_ray.config import Config
from finer_ray.models import Classifier
from finer_ray.pipeline.columns import unpack
from finer_ray.pipeline.photos import Photos
from finer_ray.pipeline.question import TargetError, Targets, question_of
from finer_ray.pipeline.results import Results
from finer_ray.pipeline.scoring import Scorer
from finer_ray.saliency import Explanation, explain
from finer_ray.store.layout import Layout

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Explainer:
    """The actor: explains units in batches, with one copy of the model.

    Args:
        model: a Classifier, or a list of a reference to one, because Ray would replace a bare reference by its value in
            every task's arguments.
        config, layout: of the job.
        device: cpu or cuda.
        threads: of torch on the CPU; None leaves them as they are.
    """

    def __init__(
        self, model: Classifier | list[Any], config: Config, layout: Layout, device: str, threads: int | None
    ) -> None:
        classifier: Classifier = ray.get(model[0]) if isinstance(model, list) else model
        if device == "cpu" and threads:
            torch.set_num_threads(threads)
        self._config, self._layout, self._device = config, layout, torch.device(device)
        self._model = classifier.to(self._device).eval()
        if config.compute.compile:
            self._model.split.trunk = torch.compile(self._model.split.trunk)  # type: ignore[method-assign]
        self._question, self._targets = question_of(config, classifier), Targets(config, classifier)
        self._scorer = Scorer(config, self._model, self._device)
        self._mean = torch.tensor(classifier.transform.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(classifier.transform.std, device=self._device).view(1, 3, 1, 1)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Explain a unit.

        Args:
            table: what `Loader` gives.

        Returns:
            One line per image, good or not: the columns of images and failures (`stage` null where it is good),
            `metrics` as lists by map, and the unit's tensors, packed.
        """
        results = Results(table, self._layout, self._model.class_count)
        photos = Photos(table, self._model.transform, self._config.input, self._device)
        notes = self._annotations(results, photos)
        good = np.flatnonzero([stage is None for stage in results.notes["stage"]])
        height, width = self._model.transform.size
        regions = (
            unpack(table["region"], np.uint8, (-(-height * width // 8),)) if "region" in table.column_names else None
        )
        size = self._config.compute.batch_size
        for first in range(0, len(good), size):
            rows, pixels = self._pixels(photos, good[first : first + size], results)
            if not len(rows):
                continue
            images = self._images(pixels)
            region = None if regions is None else self._regions(regions[rows], height, width)
            with self._autocast():
                explanation = self._explain(images, notes, rows)
                scores = self._scorer(images, explanation, region)
            results.add(rows, explanation, scores, [notes.labels[row] for row in rows])
        return results.table()

    def _annotations(self, results: Results, photos: Photos) -> "Annotations":
        """Label, target and reference by row; rows in which they fail are marked."""
        found = Annotations([], [], [])
        columns = (results.source[name].to_pylist() for name in ("label", "concept", "base"))
        for row, (text, concept, base) in enumerate(zip(*columns, strict=True)):
            label = target = reference = None
            try:
                label = self._targets.label(text)
                target, reference = self._targets.pair(label, concept, base)
            except TargetError as error:
                # What is wrong with the photo itself comes first, whoever decodes it.
                if fault := photos.fault(row):
                    results.fail(row, fault.stage, fault.message)
                results.fail(row, error.stage, str(error))
            found.labels.append(label)
            found.targets.append(target)
            found.references.append(reference)
        return found

    def _pixels(self, photos: Photos, rows: np.ndarray, results: Results) -> tuple[np.ndarray, Tensor]:
        """The rows whose photos can be decoded, and their pixels; the other rows are marked."""
        pixels, errors = photos.take(rows)
        for position, error in errors.items():
            results.fail(int(rows[position]), error.stage, error.message)
        return np.delete(rows, [*errors]), pixels

    def _images(self, pixels: Tensor) -> Tensor:
        images = pixels.to(self._device).permute(0, 3, 1, 2).float() / 255
        return (images - self._mean) / self._std

    def _autocast(self) -> torch.autocast:
        precision = PRECISIONS.get(self._config.compute.precision)
        return torch.autocast(self._device.type, precision, enabled=precision is not None)

    def _explain(self, images: Tensor, notes: "Annotations", rows: np.ndarray) -> Explanation:
        target, reference = (
            None if column[rows[0]] is None else torch.tensor([column[row] for row in rows], device=self._device)
            for column in (notes.targets, notes.references)
        )
        reference = None if reference is None else reference[:, None]
        explanation: Explanation = explain(self._model, images, self._question, target, reference)
        return explanation

    def _regions(self, bits: np.ndarray, height: int, width: int) -> Tensor:
        flat = np.unpackbits(bits, axis=1, count=height * width)
        return torch.from_numpy(flat.reshape(-1, height, width)).bool().to(self._device)


@dataclass(frozen=True)
class Annotations:
    """By row: label, target and reference, None where there is none or the model is to choose."""

    labels: list[int | None]
    targets: list[int | None]
    references: list[int | None]
