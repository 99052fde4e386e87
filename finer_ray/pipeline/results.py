"""Results: what is known of a unit's images while it is being explained."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from finer_ray.pipeline.columns import or_null, pack
from finer_ray.pipeline.device_transfer import Arrays
from finer_ray.saliency import Explanation
from finer_ray.saliency.objective import class_probabilities
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.tensors import to_half

NOTES = ("unit", "index", "shard", "key", "digest", "stage", "error", "width", "height", "region_kind")
# Columns of images that come from the model.
LINE = (
    "target",
    "predicted",
    "probability",
    "predicted_probability",
    "reference_probabilities",
    "logit",
    "references",
    "reference_logits",
)


class Results:
    """What is known of a unit's images, row by row, while it is being explained."""

    def __init__(self, source: pa.Table, layout: Layout, class_count: int) -> None:
        self.source, self.layout, self.class_count = source, layout, class_count
        self.notes: dict[str, list[Any]] = {name: source[name].to_pylist() for name in NOTES}
        self.lines: list[dict[str, Any]] = [{} for _ in range(len(source))]
        # Why a label is no class, of images that are explained without it.
        self.unknown_labels: list[str | None] = [None] * len(source)
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
        rows: NDArray[np.intp],
        places: NDArray[np.intp],
        found: Arrays,
        scores: Arrays,
        labels: list[int | None],
    ) -> None:
        """Take over a batch's results; images whose results are not finite fail.

        Args:
            rows: of the unit, (n,).
            places: of these rows in the batch, (n,); its other places are filled up and left out.
            found: what `answers` gives of the batch.
            scores: the metrics of the batch, (B, M, ...) each.
            labels: of the rows.
        """
        found, scores = ({name: values[places] for name, values in arrays.items()} for arrays in (found, scores))
        tensors = self._stored(found)
        finite = found["finite"]
        if "embedding" in tensors:
            finite = finite & np.isfinite(tensors["embedding"]).all(1)
        lines = {name: or_null(found[name].tolist()) for name in LINE}
        metrics = {name: _cells(name, values.tolist()) for name, values in scores.items()}
        for position, row in enumerate(rows.tolist()):
            if not finite[position]:
                self.fail(row, "model", "the model's results are not finite (NaN, infinite, or beyond float16)")
                continue
            for name, values in tensors.items():
                self.tensors[name][row] = values[position]
            maps = range(len(self.layout.maps))
            self.lines[row] = {name: values[position] for name, values in lines.items()}
            self.lines[row]["label"] = labels[position]
            self.lines[row]["metrics"] = [{name: metrics[name][position][of] for name in metrics} for of in maps]

    def table(self) -> pa.Table:
        """The unit as one table."""
        columns: dict[str, Any] = {name: pa.array(self.notes[name]) for name in NOTES}
        columns["line"] = pa.array([json.dumps(line) for line in self.lines])
        columns["unknown_label"] = pa.array(self.unknown_labels, pa.string())
        for name, values in self.tensors.items():
            columns[name] = pack(values)
        return pa.table(columns)

    def _stored(self, found: Arrays) -> Arrays:
        """The rows of the Zarr arrays."""
        stored = dict(found)
        stored["maps"], stored["maps_scale"] = to_half(found["maps"], (2, 3))
        stored["basis"], stored["basis_scale"] = to_half(found["basis"], (1, 2, 3))
        with np.errstate(over="ignore"):
            stored["embedding"] = found["embedding"].astype(np.float16)
        return {name: stored[name] for name in self.tensors}


def _cells(column: str, values: list[list[Any]]) -> list[list[Any]]:
    """Metrics by image and map, NaN as null; a curve of nothing else, as concepts have, is null as a whole."""
    cells: list[list[Any]] = or_null(values)
    if not column.endswith("_curve"):
        return cells
    return [[None if all(point is None for point in curve) else curve for curve in maps] for maps in cells]


def answers(explanation: Explanation, class_count: int) -> dict[str, Tensor]:
    """What is kept of a batch's explanation, on its device; concepts have no probability.

    Returns:
        The columns of images in `LINE`, (B,) or (B, K); `maps`, `basis` and `embedding`; and `finite` (B,) bool,
        whether the results can be used.
    """
    logits, target, references = explanation.logits, explanation.target, explanation.references
    finite = logits.isfinite().all(1) & explanation.maps.flatten(1).isfinite().all(1)
    return {
        "target": target,
        "predicted": explanation.predicted,
        "probability": class_probabilities(logits, target[:, None], class_count)[:, 0],
        "predicted_probability": class_probabilities(logits, explanation.predicted[:, None], class_count)[:, 0],
        "reference_probabilities": class_probabilities(logits, references, class_count),
        "logit": logits.gather(1, target[:, None])[:, 0],
        "references": references,
        "reference_logits": logits.gather(1, references.clamp(min=0)).masked_fill(references < 0, torch.nan),
        "maps": explanation.maps,
        "basis": explanation.basis,
        "embedding": explanation.embedding,
        "finite": finite & explanation.basis[:, 0].flatten(1).isfinite().all(1),
    }
