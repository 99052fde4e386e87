"""Results: what is known of a unit's images while it is being explained."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from finer_ray.pipeline.columns import or_null, pack
from finer_ray.saliency import Explanation
from finer_ray.saliency.objective import class_probabilities
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.tensors import to_half

NOTES = ("unit", "index", "shard", "key", "stage", "error", "width", "height", "region_kind")


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

    def add(
        self,
        rows: np.ndarray,
        explanation: Explanation,
        scores: list[list[dict[str, Any]]],
        labels: list[int | None],
    ) -> None:
        """Take over a batch's results; images whose results are not finite fail."""
        tensors = self._stored(explanation)
        finite = _finite(explanation, tensors)
        lines = _lines(explanation, self.class_count)
        for position, row in enumerate(rows.tolist()):
            if not finite[position]:
                self.fail(row, "model", "the model's results are not finite (NaN, infinite, or beyond float16)")
                continue
            for name, values in tensors.items():
                self.tensors[name][row] = values[position]
            self.lines[row] = {**lines[position], "label": labels[position], "metrics": scores[position]}

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


def _lines(explanation: Explanation, class_count: int) -> list[dict[str, Any]]:
    """The columns of images that come from the model; concepts have no probability."""
    logits, target, references = explanation.logits, explanation.target, explanation.references
    columns = {
        "target": target,
        "predicted": explanation.predicted,
        "probability": class_probabilities(logits, target[:, None], class_count)[:, 0],
        "predicted_probability": class_probabilities(logits, explanation.predicted[:, None], class_count)[:, 0],
        "reference_probabilities": class_probabilities(logits, references, class_count),
        "logit": logits.gather(1, target[:, None])[:, 0],
        "references": references,
        "reference_logits": logits.gather(1, references.clamp(min=0)).masked_fill(references < 0, torch.nan),
    }
    lists = {name: or_null(values.tolist()) for name, values in columns.items()}
    return [{name: values[position] for name, values in lists.items()} for position in range(len(logits))]
