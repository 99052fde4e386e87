"""Explaining stage: an actor that holds the model and explains units, on a GPU where there is one."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from finer_ray.config import Config
from finer_ray.metrics import localisation, pointing_hit
from finer_ray.models import Classifier
from finer_ray.pipeline.columns import pack, unpack
from finer_ray.pipeline.question import TargetError, Targets, question_of
from finer_ray.saliency import Explanation, explain
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.tensors import to_half

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
NOTES = ("unit", "index", "shard", "key", "stage", "error", "width", "height", "region_kind")


class Explainer:
    """The actor: explains units in batches, with one copy of the model."""

    def __init__(self, model: list[Any], config: Config, layout: Layout, device: str, threads: int | None) -> None:
        # In a list, because Ray would replace a bare reference by its value in every task's arguments.
        classifier: Classifier = ray.get(model[0])
        if device == "cpu" and threads:
            torch.set_num_threads(threads)
        self._config, self._layout, self._device = config, layout, torch.device(device)
        self._model = classifier.to(self._device).eval()
        if config.compute.compile:
            self._model.split.trunk = torch.compile(self._model.split.trunk)  # type: ignore[method-assign]
        self._question, self._targets = question_of(config, classifier), Targets(config, classifier)
        self._mean = torch.tensor(classifier.transform.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(classifier.transform.std, device=self._device).view(1, 3, 1, 1)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Explain a unit.

        Args:
            table: what `decode_unit` gives.

        Returns:
            One line per image, good or not: the columns of images and failures (`stage` null where it is good),
            `metrics` as lists by map, and the unit's tensors, packed.
        """
        results = Results(table, self._layout, self._model.class_count)
        notes = self._annotations(results)
        good = np.flatnonzero([stage is None for stage in results.notes["stage"]])
        height, width = self._model.transform.size
        pixels = unpack(table["pixels"], np.uint8, (height, width, 3))
        regions = (
            unpack(table["region"], np.uint8, (-(-height * width // 8),)) if "region" in table.column_names else None
        )
        size = self._config.compute.batch_size
        for first in range(0, len(good), size):
            rows = good[first : first + size]
            explanation = self._explain(
                pixels[rows], [notes.targets[row] for row in rows], [notes.references[row] for row in rows]
            )
            region = None if regions is None else self._regions(regions[rows], height, width)
            results.add(rows, explanation, region, [notes.labels[row] for row in rows])
        return results.table()

    def _annotations(self, results: "Results") -> "Annotations":
        """Label, target and reference by row; rows in which they fail are marked."""
        found = Annotations([], [], [])
        columns = (results.source[name].to_pylist() for name in ("label", "concept", "base"))
        for row, (text, concept, base) in enumerate(zip(*columns, strict=True)):
            label = target = reference = None
            try:
                label = self._targets.label(text)
                target, reference = self._targets.pair(label, concept, base)
            except TargetError as error:
                results.fail(row, error.stage, str(error))
            found.labels.append(label)
            found.targets.append(target)
            found.references.append(reference)
        return found

    def _explain(self, pixels: np.ndarray, targets: list[int | None], references: list[int | None]) -> Explanation:
        images = torch.tensor(pixels).to(self._device).permute(0, 3, 1, 2).float() / 255
        images = (images - self._mean) / self._std
        target = None if targets[0] is None else torch.tensor(targets, device=self._device)
        reference = None if references[0] is None else torch.tensor(references, device=self._device)[:, None]
        precision = PRECISIONS.get(self._config.compute.precision)
        with torch.autocast(self._device.type, precision, enabled=precision is not None):
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


class Results:
    """What is known of a unit's images, row by row, while it is being explained."""

    def __init__(self, source: pa.Table, layout: Layout, class_count: int) -> None:
        self.source, self.layout, self.class_count = source, layout, class_count
        self.notes: dict[str, list[Any]] = {name: source[name].to_pylist() for name in NOTES}
        self.lines: list[dict[str, Any]] = [{} for _ in range(len(source))]
        self.tensors = {
            name: np.full((len(source), *shape), -1 if name == "references" else np.nan, ARRAYS[name].dtype)
            for name, shape in layout.shapes().items()
        }

    def fail(self, row: int, stage: str, error: str) -> None:
        """Mark an image as one that cannot be used, unless it failed before."""
        if self.notes["stage"][row] is None:
            self.notes["stage"][row], self.notes["error"][row] = stage, error

    def add(self, rows: np.ndarray, explanation: Explanation, region: Tensor | None, labels: list[int | None]) -> None:
        """Take over a batch's results; images whose results are not finite fail."""
        tensors = self._stored(explanation)
        finite = _finite(explanation, tensors)
        scores = _scores(explanation.maps, region)
        lines = _lines(explanation, self.class_count)
        for position, row in enumerate(rows.tolist()):
            if not finite[position]:
                self.fail(row, "model", "the model's results are not finite (NaN, infinite, or beyond float16)")
                continue
            for name, values in tensors.items():
                self.tensors[name][row] = values[position]
            annotated = self.notes["region_kind"][row] is not None
            metrics = [tuple(_or_null(score) if annotated else None for score in pair) for pair in scores[position]]
            self.lines[row] = {**lines[position], "label": labels[position], "metrics": metrics}

    def table(self) -> pa.Table:
        """The unit as one table."""
        columns: dict[str, Any] = {name: pa.array(self.notes[name]) for name in NOTES}
        columns["line"] = pa.array([json.dumps(line) for line in self.lines])
        for name, values in self.tensors.items():
            columns[name] = pack(values)
        return pa.table(columns)

    def _stored(self, explanation: Explanation) -> dict[str, np.ndarray]:
        maps, maps_scale = to_half(_numpy(explanation.maps), (2, 3))
        basis, basis_scale = to_half(_numpy(explanation.basis), (1, 2, 3))
        with np.errstate(over="ignore"):
            embedding = _numpy(explanation.embedding).astype(np.float16)
        every: dict[str, np.ndarray] = {
            "maps": maps,
            "maps_scale": maps_scale,
            "references": _numpy(explanation.references).astype(np.int32),
            "basis": basis,
            "basis_scale": basis_scale,
            "embedding": embedding,
        }
        return {name: every[name] for name in self.tensors}


def _numpy(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.cpu().numpy()
    return array


def _finite(explanation: Explanation, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Which images have results that can be stored, (B,) bool."""
    finite = explanation.logits.isfinite().all(1) & explanation.maps.flatten(1).isfinite().all(1)
    finite &= explanation.basis[:, 0].flatten(1).isfinite().all(1)
    result = finite.cpu().numpy()
    if "embedding" in tensors:
        result &= np.isfinite(tensors["embedding"]).all(1)
    return result


def _scores(maps: Tensor, region: Tensor | None) -> list[list[tuple[float, float]]]:
    """Localisation and pointing hit, by image and map; NaN where there are none."""
    if region is None:
        return [[(math.nan, math.nan)] * maps.shape[1]] * len(maps)
    pairs = torch.stack([localisation(maps, region), pointing_hit(maps, region)], dim=2)
    return [[(float(share), float(hit)) for share, hit in image] for image in pairs.tolist()]


def _lines(explanation: Explanation, class_count: int) -> list[dict[str, Any]]:
    """The columns of images that come from the model; concepts have no probability."""
    logits, target, references = explanation.logits, explanation.target, explanation.references
    probabilities = logits[:, :class_count].softmax(1)
    predicted = explanation.predicted
    chosen = probabilities.gather(1, target.clamp(max=class_count - 1)[:, None])[:, 0]
    columns: dict[str, Any] = {
        "target": target,
        "predicted": predicted,
        "probability": [None if c >= class_count else p for c, p in zip(target.tolist(), chosen.tolist(), strict=True)],
        "predicted_probability": probabilities.gather(1, predicted[:, None])[:, 0],
        "logit": logits.gather(1, target[:, None])[:, 0],
        "references": references,
        "reference_logits": logits.gather(1, references.clamp(min=0)).masked_fill(references < 0, torch.nan),
    }
    lists = {name: values.tolist() if isinstance(values, Tensor) else values for name, values in columns.items()}
    return [{name: values[position] for name, values in lists.items()} for position in range(len(logits))]


def _or_null(score: float) -> float | None:
    return None if math.isnan(score) else score
