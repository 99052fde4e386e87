"""The paper's table, and its intervals."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from finer_ray.report.paper_table import compare, paper_table
from finer_ray.store.tables import METRICS


def export(count: int = 200) -> Any:
    """A stand-in with metrics only: finer is better by 0.1 in deletion, and nothing else is known."""
    generator = np.random.default_rng(0)
    base = generator.random(count)
    lines = [{"row": row, "map": "gradcam", "deletion_auc": base[row]} for row in range(count)]
    noise = generator.normal(0, 0.05, count)
    lines += [
        {"row": row, "map": "finer_gradcam", "deletion_auc": base[row] - 0.1 + noise[row]} for row in range(count)
    ]
    lines[3]["deletion_auc"] = None
    saliency = {"maps": ["gradcam", "finer_gradcam"], "gamma": 0.6}
    layout = SimpleNamespace(maps=("gradcam", "finer_gradcam"))
    manifest = SimpleNamespace(
        layout=layout,
        counts={"images": count},
        config={"saliency": saliency},
    )
    return SimpleNamespace(metrics=pa.Table.from_pylist(lines[::-1], METRICS), manifest=manifest)


def test_means_and_paired_differences() -> None:
    cells = compare(export())
    assert set(cells["gradcam"]) == {"deletion_auc"}
    base, finer = cells["gradcam"]["deletion_auc"], cells["finer_gradcam"]["deletion_auc"]
    assert (base.count, finer.count) == (199, 200)
    assert base.difference is None
    assert finer.difference == pytest.approx(-0.1, abs=0.02)
    assert finer.low is not None
    assert finer.high is not None
    assert finer.low < finer.difference < finer.high < 0
    # Paired: much narrower than the spread of the values themselves.
    assert finer.high - finer.low < finer.stderr


def test_against_a_map_of_ones_choice() -> None:
    cells = compare(export(), {"gradcam": "finer_gradcam"})
    assert cells["finer_gradcam"]["deletion_auc"].difference is None
    assert cells["gradcam"]["deletion_auc"].difference == pytest.approx(0.1, abs=0.02)


def test_is_readable() -> None:
    console = Console(width=120, record=True)
    console.print(paper_table(export()))
    text = console.export_text()
    assert "200 images" in text
    assert "finer_gradcam" in text
    assert "-0.1" in text
    assert "Del. ↓" in text


def test_a_few_images_do_not_move_the_median() -> None:
    """Three labels in which the model hardly believed, and one without a value, among 20."""
    drops = [0.5 + row / 100 for row in range(16)] + [-1000.0, -500.0, -2000.0, None]
    known = export(20)
    lines = known.metrics.to_pylist()
    for line in lines:
        line["confidence_drop_05"] = drops[line["row"]] if line["map"] == "gradcam" else None
    known.metrics = pa.Table.from_pylist(lines, METRICS)
    cells = compare(known)
    drop = cells["gradcam"]["confidence_drop_05"]
    assert drop.mean < -180
    assert drop.median == pytest.approx(0.56)
    assert cells["finer_gradcam"]["confidence_drop_05"].median is None
    assert cells["gradcam"]["deletion_auc"].median is None
    console = Console(width=120, record=True)
    console.print(paper_table(known))
    assert ["0.560" in line for line in console.export_text().splitlines() if "median" in line] == [True]
