"""Failure cases of a table made by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.errors import ExportError
from finer_ray.store.tables import IMAGES, METRICS
from finer_ray.studies.failure_cases import failure_cases, failure_cases_study

# Row: label, predicted, its probability, metric of the baseline and of the finer map.
ROWS: dict[int, tuple[int | None, int, float, float | None, float | None]] = {
    0: (1, 1, 0.9, 0.5, 0.6),
    1: (1, 1, 0.9, 0.5, 0.4),
    2: (2, 0, 0.8, 0.7, 0.4),
    3: (2, 0, 0.3, None, 0.4),
    4: (0, 1, 0.6, None, None),
    5: (None, 1, 0.9, 0.9, 0.7),
    6: (0, 2, 0.5, 0.2, 0.3),
    7: (None, 1, 0.9, None, None),
}


def export(metric: str = "localisation", maps: tuple[str, ...] = ("gradcam", "finer_gradcam")) -> Any:
    images, metrics = [], []
    for row, (label, predicted, probability, *values) in ROWS.items():
        line = {"row": row, "key": f"p{row}", "shard": "a.tar", "index": row, "label": label, "target": predicted}
        chances = {"predicted": predicted, "probability": probability, "predicted_probability": probability}
        none = {"reference_probabilities": [], "logit": 0, "references": [], "reference_logits": []}
        images.append({**line, **chances, **none, "width": 8, "height": 8})
        metrics += [{"row": row, "map": name, metric: value} for name, value in zip(maps, values, strict=True)]
    config = {"saliency": {"maps": list(maps), "gamma": 0.6}}
    manifest = SimpleNamespace(config=config, classes=["crow", "finch", "wren"])
    tables = (pa.Table.from_pylist(lines, schema) for lines, schema in ((images, IMAGES), (metrics[::-1], METRICS)))
    return SimpleNamespace(manifest=manifest, **dict(zip(("images", "metrics"), tables, strict=True)))


def test_ranked_by_how_much_worse() -> None:
    lines = failure_cases(export()).to_pylist()
    assert [(line["row"], line["kind"]) for line in lines] == [
        (2, "both"),
        (5, "worse_map"),
        (1, "worse_map"),
        (6, "wrong_prediction"),
        (4, "wrong_prediction"),
        (3, "wrong_prediction"),
    ]
    assert [line["rank"] for line in lines] == [1, 2, 3, 4, 5, 6]
    first = lines[0]
    assert first["difference"] == pytest.approx(-0.3)
    names = [first[name] for name in ("label_name", "target_name", "predicted_name")]
    assert names == ["wren", "crow", "crow"]
    assert (first["metric"], first["map"], lines[1]["label_name"]) == ("localisation", "finer_gradcam", None)


def test_a_metric_that_is_better_when_low() -> None:
    lines = failure_cases(export("deletion_auc")).to_pylist()
    # Rows 0 and 6 are worse by 0.1, up to rounding to float32; rows 4 and 3 cannot be told.
    assert {(line["row"], line["kind"]) for line in lines[:2]} == {(0, "worse_map"), (6, "both")}
    assert [(line["row"], line["kind"]) for line in lines[2:]] == [(row, "wrong_prediction") for row in (2, 4, 3)]
    assert lines[0]["difference"] == pytest.approx(0.1)


def test_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.studies.test_failure_cases.ROWS", {0: ROWS[0]})
    (place,) = failure_cases_study(export(), tmp_path)
    assert pq.read_table(place).num_rows == 0


def test_what_cannot_be_told() -> None:
    with pytest.raises(ExportError, match=r"no metric 'localization' \(nearest: localisation\); it has localisation"):
        failure_cases(export(), by="localization")
    with pytest.raises(ExportError, match=r"no metric 'deletion_auc'"):
        failure_cases(export(), by="deletion_auc")
    with pytest.raises(ExportError, match=r"called 'finer_gradcm' \(nearest: finer_gradcam"):
        failure_cases(export(), "finer_gradcm")
    with pytest.raises(ExportError, match="no finer map with its baseline"):
        failure_cases(export(maps=("layercam", "finer_gradcam")))
    with pytest.raises(ExportError, match=r"metrics\.deletion"):
        failure_cases(export("probability_05"))
