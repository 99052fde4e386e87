"""The writing stage: lines of the tables."""

import json

import pyarrow as pa
import pytest

from finer_ray.pipeline.writing import unit_tables
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
