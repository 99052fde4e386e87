"""Results: what is known of a unit's images, row by row, while it is being explained."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from finer_ray.pipeline.unit_tables import NOTES, from_column, to_column
from finer_ray.saliency import Explanation, SplitClassifier
from finer_ray.saliency.objective import class_probabilities
from finer_ray.store.tensors import to_half

NOT_FINITE = "the model's results are not finite (NaN, infinite, or beyond float16)"


class Results:
    """A unit's results.

    Args:
        source: what the loader gives of the unit.
        schema: of the table that the results become, EXPLAINED.

    Attributes:
        stages: why an image cannot be used, by row; None where it can.
        labels: class of each image, None where it has none.
        unknown_labels: why an image's label is no class, of images that are explained without it.
    """

    def __init__(self, source: pa.Table, schema: pa.Schema) -> None:
        self._source, self._schema = source, schema
        self.stages: list[str | None] = source["stage"].to_pylist()
        self._errors: list[str | None] = source["error"].to_pylist()
        self.labels: list[int | None] = [None] * len(source)
        self.unknown_labels: list[str | None] = [None] * len(source)
        # Parts are as the loader has found them.
        known = {*NOTES.names, "label", "unknown_label", "parts"}
        self._arrays = {field.name: _empty(field.type, len(source)) for field in schema if field.name not in known}

    def fail(self, row: int, stage: str, error: str) -> None:
        """Mark an image as one that cannot be used, unless it failed before."""
        if self.stages[row] is None:
            self.stages[row], self._errors[row] = stage, error

    def add(self, rows: NDArray[np.intp], places: NDArray[np.intp], found: Mapping[str, NDArray[Any]]) -> None:
        """Take over a batch's results; images whose results are not finite fail.

        Args:
            rows: of the unit, (n,).
            places: of these rows in the batch, (n,); its other places are filled up and left out.
            found: what `model_outputs` gives of the batch, and its metrics (B, M, ...), or (B, T, M, ...).
        """
        values = _stored({name: array[places] for name, array in found.items()})
        finite = values.pop("finite")
        if "embedding" in self._arrays:
            finite = finite & np.isfinite(values["embedding"]).all(1)
        for row in rows[~finite].tolist():
            self.fail(row, "model", NOT_FINITE)
        if "patch_cells" in values:
            widths = values["maps"].shape[-1], self._arrays["maps"].shape[-1]
            values["patch_cells"] = _renumbered(values["patch_cells"], *widths)
        for name, array in values.items():
            if name in self._arrays or name not in OPTIONAL:
                # Maps may have a smaller grid than the largest, beyond which they stay NaN.
                own = (slice(count) for count in array.shape[1:])
                self._arrays[name][(rows[finite], *own)] = array[finite]

    def table(self) -> pa.Table:
        """The unit as one table, EXPLAINED."""
        failed = np.array([stage is not None for stage in self.stages])
        columns: dict[str, Any] = {name: self._source[name] for name in NOTES.names}
        columns |= {"stage": pa.array(self.stages, pa.string()), "error": pa.array(self._errors, pa.string())}
        columns["label"] = pa.array(self.labels, pa.int32())
        columns["unknown_label"] = pa.array(self.unknown_labels, pa.string())
        if "parts" in self._schema.names:
            columns["parts"] = to_column(np.where(failed[:, None, None], 0, from_column(self._source["parts"])))
        for name, values in self._arrays.items():
            # Of a concept there is no probability: NaN, and null in the table.
            null = failed | np.isnan(values) if values.ndim == 1 else failed
            columns[name] = to_column(values) if values.ndim > 1 else pa.array(values, mask=null)
        return pa.table(columns, self._schema)


# Of a batch's results, what an export may be made without.
OPTIONAL = ("basis", "basis_scale", "embedding")


def _stored(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A batch's results as they are stored: maps, basis, embeddings and patches in float16."""
    maps, maps_scale = to_half(found["maps"], (-2, -1))
    basis, basis_scale = to_half(found["basis"], (-3, -2, -1))
    with np.errstate(over="ignore"):
        embedding = found["embedding"].astype(np.float16)
    directions = {name: found[name].astype(np.float16) for name in ("patches", "map_embedding") if name in found}
    halves: dict[str, NDArray[Any]] = {
        "maps": maps,
        "maps_scale": maps_scale,
        "basis": basis,
        "basis_scale": basis_scale,
    }
    return found | halves | directions | {"embedding": embedding}


def _renumbered(cells: NDArray[np.int64], width: int, whole: int) -> NDArray[np.int64]:
    """Cells y * w + x of grids `width` cells wide, as they are numbered in the grid of all, `whole` cells wide."""
    return np.where(cells < 0, cells, cells // width * whole + cells % width)


def _empty(kind: pa.DataType, count: int) -> NDArray[Any]:
    """Values of rows that nothing is known of: NaN, or -1 of integers."""
    shape: tuple[int, ...] = ()
    if isinstance(kind, pa.FixedShapeTensorType):
        kind, shape = kind.value_type, tuple(kind.shape)
    return np.full((count, *shape), -1 if pa.types.is_integer(kind) else np.nan, kind.to_pandas_dtype())


def model_outputs(explanation: Explanation, model: SplitClassifier) -> dict[str, Tensor]:
    """What is kept of a batch's explanation, on its device; concepts have no probability.

    Returns:
        The columns of images that come from the model, (B,) or (B, K), where there are several targets (B, T) or
        (B, T, K); `maps`, `basis` and `embedding`; where asked for, `patch_cells`, `patches` and
        `map_embedding`; and `finite` (B,) bool, whether the results can be used.
    """
    logits, target, predicted = explanation.logits, explanation.target, explanation.predicted
    classes = torch.cat([target[..., None], explanation.references], dim=-1)
    flat = classes.flatten(1)
    known = logits.gather(1, flat.clamp(min=0)).masked_fill(flat < 0, torch.nan).reshape(classes.shape)
    chances = class_probabilities(model, logits, flat).reshape(classes.shape)
    maps, own = explanation.maps.flatten(target.ndim), explanation.basis[..., 0, :, :].flatten(target.ndim)
    explained = maps.isfinite().all(-1) & own.isfinite().all(-1) | (target < 0)
    asked = {name: getattr(explanation, name) for name in ("patches", "patch_cells", "map_embedding")}
    return {name: values for name, values in asked.items() if values is not None} | {
        "target": target,
        "predicted": predicted,
        "probability": chances[..., 0],
        "predicted_probability": class_probabilities(model, logits, predicted[:, None])[:, 0],
        "reference_probabilities": chances[..., 1:],
        "logit": known[..., 0],
        "references": explanation.references,
        "reference_logits": known[..., 1:],
        "maps": explanation.maps,
        "basis": explanation.basis,
        "embedding": explanation.embedding,
        "finite": logits.isfinite().all(1) & explained.reshape(len(target), -1).all(1),
    }
