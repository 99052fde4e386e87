"""What passes between the stages: a table for each unit of work, whose schemas are declared here.

    LOADED      a line per image as it was read: pixels and annotations, or why it cannot be used
    EXPLAINED   a line per image: what goes into images, metrics and failures, and its rows of the Zarr arrays
    WRITTEN     one line of counts, for the run

Tensors are Arrow's own: a FixedShapeTensorArray keeps shape and dtype in the column's type, and is a view in NumPy.
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.config.schema import MetricsConfig
from finer_ray.metrics.table import METRICS
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.tables import IMAGES

# Of an image, whatever becomes of it.
NOTES = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("input_width", pa.int32()),
        pa.field("input_height", pa.int32()),
        pa.field("view", pa.list_(pa.float32())),
        pa.field("region_kind", pa.string()),
        # Of the user's own, by name, as a JSON object; null where none are asked for.
        pa.field("columns", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("error", pa.string()),
    ]
)
# A label, and each of an image's own references, is a number or a name, never both.
ANNOTATIONS = pa.schema(
    [
        pa.field("label_number", pa.int64()),
        pa.field("label_name", pa.string()),
        pa.field("text", pa.string()),
        pa.field("contrast_text", pa.string()),
        pa.field("references", pa.list_(pa.struct({"number": pa.int64(), "name": pa.string()}))),
    ]
)
WRITTEN = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("failures", pa.int64(), nullable=False),
        # Images that were explained without their label, which is no class: how many, by the reason.
        pa.field("unknown_labels", pa.map_(pa.string(), pa.int64()), nullable=False),
    ]
)
# Columns of images that come from the model; those that are lists hold a value for each reference. All but what is said
# of the prediction are of a target, and of each where there are several.
OF_PREDICTION = ("predicted", "predicted_probability")
MODEL_COLUMNS = (
    "target",
    "predicted",
    "probability",
    "predicted_probability",
    "reference_probabilities",
    "logit",
    "references",
    "reference_logits",
)


def loaded_schema(size: tuple[int, int], region: bool, parts: tuple[int, int] | None = None) -> pa.Schema:
    """LOADED: `pixels` (h, w, 3) uint8 of images that can be used, and where wanted their `region` (h, w) bool, and the
    `parts` that cells show, (h', w') uint8.

    An image whose own input_height and input_width are less lies in the upper left corner.

    Args:
        size: (h, w) of the model's input, pixels; the largest where images have sizes of their own.
        region: whether annotated regions are read; null where an image has none.
        parts: (h', w') of the maps, where part masks are read; 0 where an image has none.
    """
    tensors = [pa.field("pixels", tensor_type("uint8", (*size, 3)))]
    if region:
        tensors.append(pa.field("region", tensor_type("bool", size)))
    if parts is not None:
        tensors.append(pa.field("parts", tensor_type("uint8", parts)))
    return pa.schema([*NOTES, *ANNOTATIONS, *tensors])


def explained_schema(layout: Layout, metrics: dict[str, tuple[int, ...]]) -> pa.Schema:
    """EXPLAINED: the notes; answers of the model, null or fill where an image failed; metrics by map; Zarr rows.

    Args:
        layout: of the Zarr arrays, which `references` is one of and a column of images, too.
        metrics: shapes of the columns of metrics that are computed, several targets first, then maps; NaN means null.
    """
    labels = [pa.field("label", pa.int32()), pa.field("unknown_label", pa.string())]
    answers = [pa.field(name, _answer_type(name, layout)) for name in MODEL_COLUMNS]
    scores = [pa.field(name, tensor_type("float32", shape)) for name, shape in metrics.items()]
    arrays = [
        pa.field(name, tensor_type(ARRAYS[name].dtype, shape))
        for name, shape in layout.shapes().items()
        if name not in MODEL_COLUMNS
    ]
    return pa.schema([*NOTES, *labels, *answers, *scores, *arrays])


def several(layout: Layout) -> tuple[int, ...]:
    """The axis of the targets, where an image may have several: (T,), else ()."""
    return () if layout.targets == 1 else (layout.targets,)


def _answer_type(name: str, layout: Layout) -> pa.DataType:
    kind = IMAGES.field(name).type
    shape = () if name in OF_PREDICTION else several(layout)
    if pa.types.is_list(kind):
        kind, shape = kind.value_type, (*shape, layout.references)
    return pa.fixed_shape_tensor(kind, shape) if shape else kind


def metric_shapes(wanted: MetricsConfig, layout: Layout) -> dict[str, tuple[int, ...]]:
    """The shape of each column of metrics that is computed, for one image: several targets first, then maps, then the
    metric's own axes."""
    sizes = {"step": wanted.steps + 1, "reference": layout.references}
    metrics = (metric for metric in METRICS.values() if getattr(wanted, metric.switch.name))
    return {
        metric.name: (*several(layout), len(layout.maps), *(sizes[axis] for axis in metric.axes)) for metric in metrics
    }


def tensor_type(dtype: str, shape: tuple[int, ...]) -> pa.DataType:
    """The Arrow type of a tensor of this shape; of a single number, that of the number."""
    kind = pa.bool_() if dtype == "bool" else pa.from_numpy_dtype(np.dtype(dtype))
    return pa.fixed_shape_tensor(kind, shape) if shape else kind


def to_column(values: NDArray[Any], present: NDArray[np.bool_] | None = None) -> pa.Array:
    """An array (n, ...) as n tensors of its dtype, a view of its memory unless bool.

    Args:
        values: (n, ...).
        present: (n,) which of them there are; all when None.
    """
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1:
        return flat
    count, size = len(values), math.prod(values.shape[1:])
    if size:
        storage = pa.FixedSizeListArray.from_arrays(flat, size, mask=None if present is None else pa.array(~present))
    else:
        storage = pa.array([[]] * count, pa.list_(flat.type, 0))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, values.shape[1:]), storage)


def from_column(column: pa.ChunkedArray) -> NDArray[Any]:
    """What `to_column` made, (n, ...); a read-only view where the column is one chunk. Anything where it is null."""
    # Of no rows there is no chunk; to put several together copies them.
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.array([], column.type)
    if not isinstance(array.type, pa.FixedShapeTensorType):
        numbers: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return numbers
    storage, shape = array.storage, tuple(array.type.shape)
    size = math.prod(shape)
    flat = storage.values.slice(storage.offset * size, len(storage) * size)
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(storage), *shape)
    return values


def table_bytes(schema: pa.Schema) -> int:
    """Bytes of a line's tensors."""
    kinds = (field.type for field in schema if isinstance(field.type, pa.FixedShapeTensorType))
    return sum(math.prod(kind.shape) * kind.value_type.bit_width // 8 for kind in kinds)
