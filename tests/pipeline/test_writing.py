"""The writing stage: lines of the tables."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from finer_ray.pipeline.writing import unit_tables, unknown_label_note, unknown_labels
from tests.store.exports import LAYOUT


@pytest.mark.parametrize(("label", "of"), [(0, 0), (3, 3), (None, 5)])
def test_metrics_carry_the_class_of_the_label_or_else_the_target(label: int | None, of: int) -> None:
    known = {"label": label, "target": 5, "predicted": 4, "predicted_probability": 0.5, "logit": 1.0}
    lists = {"reference_probabilities": [], "references": [], "reference_logits": []}
    line = {**known, **lists, "metrics": [{"localisation": 0.25, "pointing_hit": 1.0}, {"localisation": 0.5}]}
    note = {"unit": 2, "index": 7, "shard": "a.tar", "key": "k", "width": 4, "height": 3, "region_kind": "box"}
    table = pa.Table.from_pylist([{**note, "stage": None, "error": None, "line": json.dumps(line)}])
    found = unit_tables(table, LAYOUT)["metrics"].to_pylist()
    assert [(row["row"], row["class"], row["map"]) for row in found] == [
        (16, of, "gradcam"),
        (16, of, "finer_gradcam"),
    ]
    assert [(row["localisation"], row["pointing_hit"]) for row in found] == [(0.25, True), (0.5, None)]


def test_the_note_of_unknown_labels_names_the_commonest_reasons() -> None:
    reasons = Counter({"a": 1, "b": 30, "c": 20, "d": 10})
    assert unknown_label_note(61, reasons) == (
        "61 images have a label that is no class, and are explained without it: b: 30; c: 20; d: 10; ..."
    )
    assert unknown_label_note(30, Counter({"b": 30})).endswith("without it: b: 30")


def test_failed_images_have_no_say_about_labels() -> None:
    table = pa.table({"stage": [None, "decode", None, None], "unknown_label": ["no", "no", None, "no"]})
    assert unknown_labels(table) == {"no": 2}
