"""Images: what changed in each image that two exports share, a line per image and map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.compare.agreement import correlation, shift, top_overlap
from finer_ray.compare.joining import Joined
from finer_ray.compare.placed import Sizes, common_boxes, placed
from finer_ray.metrics.table import AVERAGED
from finer_ray.report.paper_table import metric_values
from finer_ray.store.batches import Batch, Held
from finer_ray.store.reading import Export

# Images whose maps are in memory together.
BLOCK = 512
MEASURES = ("correlation", "top_overlap", "shift", "shift_x", "shift_y")
IMAGE = pa.schema(
    [
        pa.field("row_a", pa.int64(), nullable=False),
        pa.field("row_b", pa.int64(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("predicted_a", pa.string(), nullable=False),
        pa.field("predicted_b", pa.string(), nullable=False),
        pa.field("flipped", pa.bool_(), nullable=False),
        pa.field("probability_a", pa.float32(), nullable=False),
        pa.field("probability_b", pa.float32(), nullable=False),
        pa.field("same_target", pa.bool_(), nullable=False),
    ]
)
CHANGES = pa.schema(
    [*IMAGE, pa.field("map", pa.string()), *(pa.field(name, pa.float64()) for name in (*MEASURES, *AVERAGED))]
)
LINES = ["row", "shard", "key", "target", "predicted", "predicted_probability", "width", "height"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One of two exports, and its images that both have, in the common order.

    Attributes:
        export: any.
        rows: (n,) int64, of the images.
        places: (n,) int64, of these rows in the table `images`.
        lines: `LINES` of them.
    """

    export: Export
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    lines: pa.Table

    @classmethod
    def of(cls, export: Export, rows: NDArray[np.int64]) -> "Side":
        known = export.images.select(LINES)
        places = np.searchsorted(known["row"].to_numpy(), rows)
        return cls(export, rows, places, known.take(pa.array(places)))

    def names(self, column: str) -> NDArray[np.object_]:
        """The classes in a column of `lines`, by name."""
        names: NDArray[np.object_] = np.array(self.export.manifest.classes, object)[self.lines[column].to_numpy()]
        return names

    def held(self, block: slice) -> Held:
        """The export with some of the images' arrays, which are read once for all maps."""
        rows: list[int] = np.unique(self.rows[block]).tolist()
        return Held(self.export, Batch(rows, self.export.images, self.export.metrics))


def common_maps(a: Export, b: Export) -> list[str]:
    """Maps that both exports have by name, in the first one's order."""
    return [name for name in a.manifest.layout.maps if name in b.manifest.layout.maps]


def changes(a: Export, b: Export, both: Joined, advance: Callable[[int], None]) -> pa.Table:
    """A line per image of both and map of both, or with map null where they have no map in common.

    Args:
        a, b: two exports.
        both: the images that these have in common.
        advance: is called with the number of images that are done since it was called last.

    Returns:
        A table with the schema CHANGES, by row of `a`, maps in their order.
    """
    maps, sides = common_maps(a, b), (Side.of(a, both.rows_a), Side.of(b, both.rows_b))
    names: Sequence[str | None] = maps or [None]
    values = {key: np.full((len(both), len(names)), np.nan) for key in (*MEASURES, *AVERAGED)}
    for place, name in enumerate(maps):
        for metric, difference in _differences(*sides, name).items():
            values[metric][:, place] = difference
    for first in range(0, len(both), BLOCK):
        block = slice(first, first + BLOCK)
        for place, measured in enumerate(_measured(*sides, block, maps)):
            for measure, known in measured.items():
                values[measure][block, place] = known
        advance(len(both.rows_a[block]))
    lines = _images(*sides).take(pa.array(np.repeat(np.arange(len(both)), len(names))))
    columns = {key: pa.array(known.ravel(), from_pandas=True) for key, known in values.items()}
    own = {"map": pa.array([*names] * len(both), pa.string()), **columns}
    return pa.table([*lines.columns, *own.values()], CHANGES)


def _images(a: Side, b: Side) -> pa.Table:
    """What is the same for all of an image's maps, with the schema IMAGE."""
    named_a, named_b = a.names("predicted"), b.names("predicted")
    columns = {
        "row_a": a.lines["row"],
        "row_b": b.lines["row"],
        "shard": a.lines["shard"],
        "key": a.lines["key"],
        "predicted_a": pa.array(named_a, pa.string()),
        "predicted_b": pa.array(named_b, pa.string()),
        "flipped": ~_same(a, b, "predicted"),
        "probability_a": a.lines["predicted_probability"],
        "probability_b": b.lines["predicted_probability"],
        "same_target": _same(a, b, "target"),
    }
    return pa.table(columns, IMAGE)


def _same(a: Side, b: Side, column: str) -> NDArray[np.bool_]:
    """Whether a column of `lines` holds the same class in both exports, (n,)."""
    # Two classes of one list may bear one name, as ImageNet's two cranes do.
    if a.export.manifest.classes == b.export.manifest.classes:
        ours, theirs = a.lines[column].to_numpy(), b.lines[column].to_numpy()
    else:
        ours, theirs = a.names(column), b.names(column)
    return np.asarray(ours == theirs, np.bool_)


def _differences(a: Side, b: Side, name: str) -> dict[str, Values]:
    """By metric, what a map has in `b` less what it has in `a`, (n,)."""
    values_a, values_b = (metric_values(side.export, name) for side in (a, b))
    return {metric: values_b[metric][b.places] - known[a.places] for metric, known in values_a.items()}


def _measured(a: Side, b: Side, block: slice, maps: list[str]) -> list[Mapping[str, Values]]:
    """For each map its `MEASURES` in some of the images."""
    if not maps:
        return []
    held_a, held_b = a.held(block), b.held(block)
    widths, heights = (a.lines[key][block].to_pylist() for key in ("width", "height"))
    sizes = list(zip(widths, heights, strict=True))
    boxes = common_boxes(held_a, held_b, sizes)
    rows_a, rows_b = a.rows[block], b.rows[block]
    return [
        _measures(placed(held_a, rows_a, name, sizes, boxes), placed(held_b, rows_b, name, sizes, boxes), boxes, sizes)
        for name in maps
    ]


def _measures(a: NDArray[np.float32], b: NDArray[np.float32], boxes: Values, sizes: Sizes) -> dict[str, Values]:
    """`MEASURES` of maps on the points of boxes of photos; shifts as shares of the photos' diagonals."""
    moved = shift(a, b) * (boxes[:, 2:] - boxes[:, :2]) / np.linalg.norm(sizes, axis=1)[:, None]
    return {
        "correlation": correlation(a, b),
        "top_overlap": top_overlap(a, b),
        "shift": np.linalg.norm(moved, axis=1),
        "shift_x": moved[:, 0],
        "shift_y": moved[:, 1],
    }
