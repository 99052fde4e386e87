"""Tables of an export: their Arrow schemas, and the summary by class."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.metrics.metric import Metric
from finer_ray.metrics.statistics import Mean, mean_of_sums
from finer_ray.metrics.table import AVERAGED
from finer_ray.metrics.table import METRICS as ALL

IMAGES = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("target", pa.int32(), nullable=False),
        pa.field("predicted", pa.int32(), nullable=False),
        pa.field("probability", pa.float32()),
        pa.field("predicted_probability", pa.float32(), nullable=False),
        pa.field("reference_probabilities", pa.list_(pa.float32()), nullable=False),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("references", pa.list_(pa.int32()), nullable=False),
        pa.field("reference_logits", pa.list_(pa.float32()), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        # Null in lines that were written before there were these.
        pa.field("input_width", pa.int32()),
        pa.field("input_height", pa.int32()),
        pa.field("view", pa.list_(pa.float32())),
    ]
)


def _column(metric: Metric) -> pa.Field:
    kind = {"float32": pa.float32(), "bool": pa.bool_()}[metric.dtype]
    for _ in metric.axes:
        kind = pa.list_(kind)
    return pa.field(metric.name, kind)


METRICS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),
        pa.field("map", pa.string(), nullable=False),
        *(_column(metric) for metric in ALL.values() if metric.of_region),
        pa.field("region", pa.string()),
        *(_column(metric) for metric in ALL.values() if not metric.of_region),
    ]
)
# Where a job has several targets for an image, a line for each of them, the first included; images and metrics are of
# the first.
TARGETS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        *(
            IMAGES.field(name)
            for name in (
                "target",
                "probability",
                "logit",
                "references",
                "reference_logits",
                "reference_probabilities",
            )
        ),
    ]
)
TARGET_METRICS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        IMAGES.field("target"),
        *(field for field in METRICS if field.name not in ("row", "class")),
    ]
)
FAILURES = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64()),
        pa.field("key", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)
CLASSES = pa.schema(
    [
        pa.field("class", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("map", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("labelled", pa.int64(), nullable=False),
        pa.field("accuracy", pa.float64()),
        *(
            pa.field(f"{name}_{what}", kind, nullable=what != "count")
            for name in AVERAGED
            for what, kind in (("count", pa.int64()), ("mean", pa.float64()), ("stderr", pa.float64()))
        ),
    ]
)
SIMILARITY = pa.schema(
    [
        pa.field("rank", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("mean", "std", "low", "high")),
        pa.field("drawn", pa.int32()),
    ]
)
# Of each pair of classes of which one, `reference`, is a reference of images whose target is the other, `class`.
PAIRS = pa.schema(
    [
        pa.field("class", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("reference", pa.int32(), nullable=False),
        pa.field("reference_name", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("confused", pa.int64()),
        pa.field("confused_back", pa.int64()),
        pa.field("cosine", pa.float32()),
        pa.field("logit_gap", pa.float64(), nullable=False),
        pa.field("evidence", pa.float64()),
        pa.field("evidence_positive", pa.float64()),
        pa.field("parts", pa.map_(pa.string(), pa.float64())),
        pa.field("part_cells", pa.map_(pa.string(), pa.float64())),
        pa.field("most", pa.list_(pa.int64())),
        pa.field("least", pa.list_(pa.int64())),
    ]
)
# What images of class a have in common where it is told from b, or from all its references; see finer_ray/traits.
TRAITS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("a", pa.int32(), nullable=False),
        pa.field("b", pa.int32()),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("mass", pa.float64(), nullable=False),
        pa.field("prevalence_a", pa.float64()),
        pa.field("prevalence_b", pa.float64()),
        pa.field("stability", pa.float64()),
        pa.field("images_a", pa.int64(), nullable=False),
        pa.field("images_b", pa.int64(), nullable=False),
        pa.field(
            "cells",
            pa.list_(
                pa.struct(
                    [
                        pa.field("row", pa.int64(), nullable=False),
                        pa.field("cell", pa.int32(), nullable=False),
                        pa.field("evidence", pa.float64(), nullable=False),
                    ]
                )
            ),
            nullable=False,
        ),
        pa.field("part", pa.string()),
        pa.field("part_share", pa.float64()),
        pa.field("part_lift", pa.float64()),
        pa.field("attribute", pa.string()),
        pa.field("attribute_lift", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("text_score", pa.float64()),
    ]
)
# In the order in which a unit's parts are written: the part of images is the unit's commit.
PARTS: dict[str, pa.Schema] = {"metrics": METRICS, "failures": FAILURES, "images": IMAGES}
SEVERAL: dict[str, pa.Schema] = {"targets": TARGETS, "target_metrics": TARGET_METRICS}
# Computed from a finished export by a command of the same name, see `finer_ray.store.derived`.
DERIVED: dict[str, pa.Schema] = {"pairs": PAIRS, "traits": TRAITS}
OF_JOB: dict[str, pa.Schema] = {**SEVERAL, **PARTS, "classes": CLASSES, "similarity": SIMILARITY}
SCHEMAS = OF_JOB | DERIVED
FIXED = {name for schema in OF_JOB.values() for name in schema.names}


def part_schemas(targets: int) -> dict[str, pa.Schema]:
    """Schemas of a unit's parts, in the order in which they are written, where an image has at most so many targets."""
    return PARTS if targets == 1 else {**SEVERAL, **PARTS}


# A group is what a reader skips by its statistics, and what a thread takes at a time.
ROWS_PER_GROUP = 131_072


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """How a table is laid out in Parquet, as arguments of `pyarrow.parquet.write_table`.

    Chosen by benchmarks/bench_query.py: zstd after an encoding that suits the type. Floats hardly repeat, so no
    dictionary is tried on them: their bytes are split into streams, of which zstd shrinks those of the exponents.
    int64 (rows, positions, counts) rise slowly and become differences, keys share their beginnings; int32 (classes,
    sizes) and other strings repeat and get a dictionary. Statistics are written for all columns.
    """
    encodings: dict[str, str] = {}
    repeating = []
    for field in schema:
        kind, path = field.type, field.name
        if pa.types.is_list(kind):
            kind, path = kind.value_type, f"{path}.list.element"
        if pa.types.is_floating(kind):
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_int64(kind):
            encodings[path] = "DELTA_BINARY_PACKED"
        elif path == "key":
            encodings[path] = "DELTA_BYTE_ARRAY"
        else:
            repeating.append(path)
    return {
        "compression": "zstd",
        "row_group_size": ROWS_PER_GROUP,
        "use_dictionary": repeating,
        "column_encoding": encodings,
        "write_statistics": True,
    }


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table as it was written, with the columns of a schema of now: a metric may have come since, or be away.

    Args:
        table: with all columns of the schema but the user's own and those that may lack, `COME_AND_GO` and `ADDED`.
        schema: of SCHEMAS, or of some of its columns, and the user's own.

    Returns:
        The table without other columns; those that it lacks are null, and counts of metrics 0. So are columns of the
        user's own, which a unit of failures alone has none of.
    """
    may_lack = COME_AND_GO | ADDED
    for field in schema:
        if field.name not in table.column_names and (field.name in may_lack or field.name not in FIXED):
            missing = pa.nulls(len(table), field.type) if field.nullable else pa.repeat(pa.scalar(0), len(table))
            table = table.append_column(field, missing)
    return table.select(schema.names).cast(schema)


SUMMED = ("correct", *AVERAGED)
# Of images, what exports of earlier versions lack.
ADDED = {"input_width", "input_height", "view"}
# Columns of metrics and their summaries, and one that most exports do without.
COME_AND_GO = {
    "drawn",
    *ALL,
    *(name for name in CLASSES.names if name.startswith(tuple(f"{metric}_" for metric in AVERAGED))),
}


def sums(images: pa.Table, metrics: pa.Table) -> pa.Table:
    """What a piece of the tables adds to the summary by class; `summarise` puts pieces together.

    An image belongs to the class of its label, or where it has none, to its target's.

    Args:
        images: row, label, target, predicted.
        metrics: row, map and AVERAGED; lines of images that are not among `images` do not count.

    Returns:
        A line per class and map: class, map, count, and for accuracy (`correct`) and each metric the count, sum and
        sum of squares (float64) over the images that have it.
    """
    correct = pc.cast(pc.equal(images["label"], images["predicted"]), pa.float64())
    keys = pa.table({"row": images["row"], "class": pc.coalesce(images["label"], images["target"]), "correct": correct})
    wide = metrics.select(["row", "map", *AVERAGED]).join(keys, "row", join_type="inner")
    wanted: list[Any] = [("row", "count")]
    for name in SUMMED:
        values = pc.cast(wide[name], pa.float64())
        wide = wide.set_column(wide.column_names.index(name), name, values)
        wide = wide.append_column(f"{name}_squared", pc.multiply(values, values))
        wanted += [(name, "count"), (name, "sum"), (f"{name}_squared", "sum")]
    return wide.group_by(["class", "map"], use_threads=False).aggregate(wanted)


def summarise(pieces: list[pa.Table], names: list[str]) -> pa.Table:
    """The table `classes`: count, accuracy, mean and standard error of each metric, by class and map.

    Args:
        pieces: by `sums`, at least one.
        names: of the classes.

    Returns:
        A table with the schema CLASSES, sorted by class, maps in their own order. Means are over the images that
        have the metric; standard errors are sample standard deviation / sqrt(count), null for fewer than two.
    """
    table = pa.concat_tables(pieces)
    wanted: list[Any] = [(name, "sum") for name in table.column_names if name not in ("class", "map")]
    total = table.group_by(["class", "map"], use_threads=False).aggregate(wanted).sort_by([("class", "ascending")])
    columns: dict[str, Any] = {
        "class": total["class"],
        "name": pa.array([names[index] for index in total["class"].to_pylist()], pa.string()),
        "map": total["map"],
        "count": total["row_count_sum"],
        "labelled": total["correct_count_sum"],
        "accuracy": _null(_mean(total, "correct").mean),
    }
    for name in AVERAGED:
        mean = _mean(total, name)
        columns[f"{name}_count"] = total[f"{name}_count_sum"]
        columns[f"{name}_mean"] = _null(mean.mean)
        columns[f"{name}_stderr"] = _null(mean.stderr)
    return pa.table(columns).cast(CLASSES)


def _mean(total: pa.Table, name: str) -> Mean:
    columns = (total[f"{name}_{what}_sum"] for what in ("count", "sum", "squared_sum"))
    return mean_of_sums(*(pc.cast(column, pa.float64()).to_numpy() for column in columns))


def _null(values: NDArray[np.float64]) -> pa.Array:
    """Arrow takes NaN for null here."""
    return pa.array(values, from_pandas=True)
