"""The writing stage: lines of the tables."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from finer_ray.config.schema import MetricsConfig
from finer_ray.pipeline.results import Results
from finer_ray.pipeline.unit_tables import explained_schema, from_column, metric_shapes, to_column
from finer_ray.pipeline.writing import MAX_REASONS, OTHER, unit_tables, unknown_label_note, unknown_labels
from tests.store.exports import LAYOUT

METRICS = MetricsConfig(deletion=True, drops=True, steps=2)
SCHEMA = explained_schema(LAYOUT, metric_shapes(METRICS, LAYOUT))


def explained(label: int | None, probability: float = 0.25, **scores: Any) -> pa.Table:
    """A unit of two images: the second one failed."""
    notes = {
        "unit": [2, 2],
        "index": [7, 8],
        "shard": ["a.tar", "a.tar"],
        "key": ["k", ""],
        "digest": ["0", "1"],
        "width": [4, None],
        "height": [3, None],
        "input_width": [4, None],
        "input_height": [4, None],
        "view": [[0.0, 0.0, 4.0, 4.0], None],
        "region_kind": ["box", None],
        "columns": ['{"sex": "f", "age": 3}', '{"sex": "m", "age": 0.5}'],
        "stage": [None, "decode"],
        "error": [None, "no image"],
    }
    results = Results(pa.table(notes), SCHEMA)
    results.labels[0] = label
    shapes = {field.name: tuple(getattr(field.type, "shape", ())) for field in SCHEMA}
    found = {name: np.full((1, *shapes[name]), 0.5, np.float32) for name in ("maps", "basis", "embedding")}
    found |= {"target": np.array([5]), "predicted": np.array([4]), "logit": np.array([1.0], np.float32)}
    found |= {name: np.array([probability], np.float32) for name in ("probability", "predicted_probability")}
    found |= {"references": np.array([[3, -1]]), "finite": np.array([True])}
    found |= {name: np.array([[0.5, np.nan]], np.float32) for name in ("reference_probabilities", "reference_logits")}
    for name in metric_shapes(METRICS, LAYOUT):
        found[name] = np.broadcast_to(np.float32(scores.get(name, np.nan)), (1, *shapes[name]))
    results.add(np.array([0]), np.array([0]), found)
    return results.table()


@pytest.mark.parametrize(("label", "of"), [(0, 0), (3, 3), (None, 5)])
def test_metrics_carry_the_class_of_the_label_or_else_the_target(label: int | None, of: int) -> None:
    table = explained(label, localisation=[[0.25, 0.5]], pointing_hit=[[1.0, np.nan]])
    found = unit_tables(table, LAYOUT)["metrics"].to_pylist()
    assert [(row["row"], row["class"], row["map"]) for row in found] == [
        (16, of, "gradcam"),
        (16, of, "finer_gradcam"),
    ]
    assert [(row["localisation"], row["pointing_hit"]) for row in found] == [(0.25, True), (0.5, None)]
    assert {row["region"] for row in found} == {"box"}


def test_what_is_not_known_is_null() -> None:
    """A probability of a concept; a reference that there is not; a metric that was not asked for, or has no value; a
    curve of nothing else as a whole, where a list of references keeps its places."""
    tables = unit_tables(explained(None, probability=np.nan, deletion_auc=[[0.5, np.nan]]), LAYOUT)
    (image,) = tables["images"].to_pylist()
    assert (image["label"], image["probability"], image["references"]) == (None, None, [3, -1])
    assert image["reference_logits"] == [0.5, None]
    # Of the failed image, whose age would make a float of it, nothing.
    assert (image["sex"], image["age"], tables["images"].schema.field("age").type) == ("f", 3, pa.int64())
    first, second = tables["metrics"].to_pylist()
    assert (first["deletion_auc"], second["deletion_auc"]) == (0.5, None)
    assert first["insertion_auc"] is None
    assert first["deletion_curve"] is None
    assert first["reference_probabilities_05"] == [None, None]


def test_an_image_that_failed_is_a_line_of_failures_alone() -> None:
    tables = unit_tables(explained(0), LAYOUT)
    assert tables["images"]["row"].to_pylist() == [16]
    (failure,) = tables["failures"].to_pylist()
    assert failure == {
        "row": 17, "shard": "a.tar", "index": 8, "key": None, "stage": "decode", "error": "no image"
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 0), ()])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int32", "bool"])
def test_tensors_come_back_also_from_a_slice_and_from_a_file(shape: tuple[int, ...], dtype: str) -> None:
    values = (np.arange(5 * int(np.prod(shape))) % 3).astype(dtype).reshape(5, *shape)
    column = to_column(values)
    column.validate(full=True)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", column.type)])) as writer:
        writer.write_table(pa.table({"x": column}))
    read = pa.ipc.open_stream(sink.getvalue()).read_all()["x"]
    for found in (pa.chunked_array([column]), read, pa.chunked_array([column[:2], column[2:]])):
        np.testing.assert_array_equal(from_column(found), values)
        np.testing.assert_array_equal(from_column(found[1:4]), values[1:4])
        assert from_column(found).dtype == values.dtype


def test_no_tensors() -> None:
    column = to_column(np.zeros((2, 3, 4), np.float16))
    for none in (pa.chunked_array([column]).slice(0, 0), pa.chunked_array([], column.type)):
        assert from_column(none).shape == (0, 3, 4)


def test_tensors_may_be_null() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    column = to_column(values, np.array([True, False, True]))
    assert [value is None for value in column.to_pylist()] == [False, True, False]
    np.testing.assert_array_equal(from_column(pa.chunked_array([column]))[[0, 2]], values[[0, 2]])


def test_the_note_of_unknown_labels_names_the_commonest_reasons() -> None:
    reasons = Counter({"a": 1, "b": 30, "c": 20, "d": 10})
    assert unknown_label_note(reasons) == (
        "61 images have a label that is no class, and are explained without it: b: 30; c: 20; d: 10; ..."
    )
    assert unknown_label_note(Counter({"b": 30})).endswith("without it: b: 30")
    assert unknown_label_note(Counter({"b": 3, OTHER: 90})).startswith("93 images")


def test_failed_images_have_no_say_about_labels() -> None:
    table = pa.table({"stage": [None, "decode", None, None], "unknown_label": ["no", "no", None, "no"]})
    assert unknown_labels(table) == {"no": 2}


def test_the_rarest_reasons_are_counted_together() -> None:
    reasons = [f"no class {i}" for i in range(MAX_REASONS + 5)]
    found = unknown_labels(pa.table({"stage": pa.nulls(len(reasons), pa.string()), "unknown_label": reasons}))
    assert len(found) == MAX_REASONS + 1
    assert found[OTHER] == 5
