"""Tables of an export: their Arrow schemas, and the summary by class."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
    ]
)
METRICS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("class", pa.int32(), nullable=False),
        pa.field("map", pa.string(), nullable=False),
        pa.field("localisation", pa.float32()),
        pa.field("pointing_hit", pa.bool_()),
        pa.field("region", pa.string()),
        pa.field("deletion_auc", pa.float32()),
        pa.field("insertion_auc", pa.float32()),
        pa.field("relative_drop_05", pa.float32()),
        pa.field("relative_drop_10", pa.float32()),
        pa.field("confidence_drop_05", pa.float32()),
        pa.field("confidence_drop_10", pa.float32()),
        pa.field("probability_05", pa.float32()),
        pa.field("probability_10", pa.float32()),
        pa.field("reference_probabilities_05", pa.list_(pa.float32())),
        pa.field("reference_probabilities_10", pa.list_(pa.float32())),
    ]
)
AVERAGED = (
    "localisation",
    "pointing_hit",
    "deletion_auc",
    "insertion_auc",
    "relative_drop_05",
    "relative_drop_10",
    "confidence_drop_05",
    "confidence_drop_10",
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
# In the order in which a unit's parts are written: the part of images is the unit's commit.
PARTS: dict[str, pa.Schema] = {"metrics": METRICS, "failures": FAILURES, "images": IMAGES}
SCHEMAS: dict[str, pa.Schema] = {**PARTS, "classes": CLASSES}
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


def summarise(images: pa.Table, metrics: pa.Table, names: list[str]) -> pa.Table:
    """The table `classes`: count, accuracy, mean and standard error of each metric, by class and map.

    An image belongs to the class of its label, or where it has none, to its target's.

    Args:
        images, metrics: with the schemas IMAGES and METRICS.
        names: of the classes.

    Returns:
        A table with the schema CLASSES, sorted by class, maps in their own order. Means are over the images that
        have the metric; standard errors are sample standard deviation / sqrt(count), null for fewer than two.
    """
    correct = pc.cast(pc.equal(images["label"], images["predicted"]), pa.float64())
    keys = pa.table({"row": images["row"], "class": pc.coalesce(images["label"], images["target"]), "correct": correct})
    wide = metrics.select(["row", "map", *AVERAGED]).join(keys, "row", join_type="inner")
    for name in AVERAGED:
        place = wide.column_names.index(name)
        wide = wide.set_column(place, name, pc.cast(wide[name], pa.float64()))
    spread = pc.VarianceOptions(ddof=1)
    wanted: list[Any] = [("row", "count"), ("correct", "count"), ("correct", "mean")]
    for name in AVERAGED:
        wanted += [(name, "count"), (name, "mean"), (name, "stddev", spread)]
    grouped = wide.group_by(["class", "map"], use_threads=False).aggregate(wanted)
    grouped = grouped.sort_by([("class", "ascending")])
    columns: dict[str, Any] = {
        "class": grouped["class"],
        "name": pa.array([names[index] for index in grouped["class"].to_pylist()], pa.string()),
        "map": grouped["map"],
        "count": grouped["row_count"],
        "labelled": grouped["correct_count"],
        "accuracy": grouped["correct_mean"],
    }
    for name in AVERAGED:
        count = grouped[f"{name}_count"]
        columns[f"{name}_count"] = count
        columns[f"{name}_mean"] = grouped[f"{name}_mean"]
        root = pc.sqrt(pc.cast(count, pa.float64()))
        columns[f"{name}_stderr"] = pc.divide(grouped[f"{name}_stddev"], root)
    return pa.table(columns).cast(CLASSES)
