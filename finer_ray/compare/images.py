"""Images: what changed in each image that two exports share, a line per image and map."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.compare.agreement import correlation, shift, top_overlap
from finer_ray.compare.joining import Joined
from finer_ray.compare.placed import placed
from finer_ray.metrics.table import AVERAGED
from finer_ray.report.paper_table import metric_values
from finer_ray.report.site.batches import Batch, Held
from finer_ray.store.reading import Export

# Images whose maps are in memory together.
BLOCK = 512
MEASURES = ("correlation", "top_overlap", "shift", "shift_x", "shift_y")
CHANGES = pa.schema(
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
        pa.field("map", pa.string()),
        *(pa.field(name, pa.float64()) for name in MEASURES),
        *(pa.field(name, pa.float64()) for name in AVERAGED),
    ]
)
LINES = ["row", "shard", "key", "target", "predicted", "predicted_probability", "width", "height"]


@dataclass(frozen=True)
class Side:
    """One of two exports, and the lines of its images that both have, in the common order.

    Attributes:
        export: any.
        lines: `LINES` of the images.
        names: of the classes by index.
    """

    export: Export
    lines: pa.Table
    names: list[str]

    @classmethod
    def of(cls, export: Export, rows: NDArray[np.int64]) -> "Side":
        known = export.images.select(LINES)
        places = np.searchsorted(known["row"].to_numpy(), rows)
        return cls(export, known.take(pa.array(places)), export.manifest.classes)

    def held(self, rows: NDArray[np.int64]) -> Held:
        """The export with some rows' arrays read once."""
        distinct = np.unique(rows)
        return Held(self.export, Batch(distinct.tolist(), self.export.images, self.export.metrics))


def common_maps(a: Export, b: Export) -> list[str]:
    """Maps that both exports have by name, in the first one's order."""
    return [name for name in a.manifest.layout.maps if name in b.manifest.layout.maps]


def changes(a: Export, b: Export, both: Joined, advance: Callable[[int], None]) -> pa.Table:
    """A line per image of both and map of both, or with map null where they have no map in common.

    Args:
        a, b: exports.
        both: their common images.
        advance: told of how many images more are done.

    Returns:
        A table with the schema CHANGES, by row of `a`, maps in their order.
    """
    maps = common_maps(a, b)
    sides = Side.of(a, both.rows_a), Side.of(b, both.rows_b)
    images = _images(*sides)
    metrics = {name: _differences(a, b, both, name) for name in maps}
    tables = []
    for first, measured in _blocks(*sides, both, maps):
        block = images.slice(first, BLOCK)
        for order, name in enumerate(maps):
            differences = {metric: values[first : first + BLOCK] for metric, values in metrics[name].items()}
            tables.append(_lines(block, name, measured[name] | differences, first, order))
        if not maps:
            tables.append(_lines(block, None, {}, first, 0))
        advance(len(block))
    if not tables:
        return CHANGES.empty_table()
    table = pa.concat_tables(tables).sort_by([("place", "ascending"), ("order", "ascending")])
    return table.select(CHANGES.names).cast(CHANGES)


def _images(a: Side, b: Side) -> pa.Table:
    """What is the same for all of an image's maps."""
    named = [
        {what: np.array(side.names, object)[side.lines[what].to_numpy()] for what in ("target", "predicted")}
        for side in (a, b)
    ]
    # Two classes of one list may bear one name, as ImageNet's two cranes do.
    ids: list[Any] = (
        [{what: side.lines[what].to_numpy() for what in ("target", "predicted")} for side in (a, b)]
        if a.names == b.names
        else named
    )
    return pa.table(
        {
            "row_a": a.lines["row"],
            "row_b": b.lines["row"],
            "shard": a.lines["shard"],
            "key": a.lines["key"],
            "predicted_a": pa.array(named[0]["predicted"], pa.string()),
            "predicted_b": pa.array(named[1]["predicted"], pa.string()),
            "flipped": pa.array(np.asarray(ids[0]["predicted"] != ids[1]["predicted"], bool)),
            "probability_a": a.lines["predicted_probability"],
            "probability_b": b.lines["predicted_probability"],
            "same_target": pa.array(np.asarray(ids[0]["target"] == ids[1]["target"], bool)),
        }
    )


def _differences(a: Export, b: Export, both: Joined, name: str) -> dict[str, NDArray[np.float64]]:
    """By metric, what a map of `b` has less what it has in `a`, for the common images."""
    values = []
    for export, rows in ((a, both.rows_a), (b, both.rows_b)):
        places = np.searchsorted(export.images["row"].to_numpy(), rows)
        values.append({metric: known[places] for metric, known in metric_values(export, name).items()})
    return {metric: values[1][metric] - known for metric, known in values[0].items()}


def _blocks(a: Side, b: Side, both: Joined, maps: list[str]) -> Iterator[tuple[int, dict[str, dict[str, Any]]]]:
    """Where each block begins, and by map its measures."""
    sizes = list(zip(a.lines["width"].to_pylist(), a.lines["height"].to_pylist(), strict=True))
    for first in range(0, len(both), BLOCK):
        rows_a, rows_b = both.rows_a[first : first + BLOCK], both.rows_b[first : first + BLOCK]
        held_a, held_b = a.held(rows_a), b.held(rows_b)
        here = sizes[first : first + BLOCK]
        yield first, {name: _measures(held_a, held_b, rows_a, rows_b, here, name) for name in maps}


def _measures(
    a: Export, b: Export, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64], sizes: list[tuple[int, int]], name: str
) -> dict[str, NDArray[np.float64]]:
    """`MEASURES` of one map, (n,) each; shifts as shares of the photo's diagonal."""
    points = placed(a, b, rows_a, rows_b, sizes, name)
    diagonal = np.linalg.norm(np.array(sizes, np.float64), axis=1)
    moved = shift(points.a, points.b) * points.extent / diagonal[:, None]
    return {
        "correlation": correlation(points.a, points.b),
        "top_overlap": top_overlap(points.a, points.b),
        "shift": np.linalg.norm(moved, axis=1),
        "shift_x": moved[:, 0],
        "shift_y": moved[:, 1],
    }


def _lines(block: pa.Table, name: str | None, columns: dict[str, Any], first: int, order: int) -> pa.Table:
    """A block's lines of one map; `place` and `order` are what they are sorted by."""
    count = len(block)
    own: dict[str, Any] = {"map": pa.array([name] * count, pa.string())}
    for key in CHANGES.names[block.num_columns + 1 :]:
        values = columns.get(key)
        own[key] = pa.nulls(count, pa.float64()) if values is None else pa.array(values, from_pandas=True)
    own |= {"place": np.arange(first, first + count), "order": np.full(count, order)}
    return pa.table({**dict(zip(block.column_names, block.columns, strict=True)), **own})
