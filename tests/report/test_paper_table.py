"""The paper's table, and its intervals."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from finer_ray.metrics.bootstrap import paired_interval
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
    layout = SimpleNamespace(maps=("gradcam", "finer_gradcam"))
    manifest = SimpleNamespace(layout=layout, counts={"images": count}, config={"saliency": {}})
    return SimpleNamespace(metrics=pa.Table.from_pylist(lines[::-1], METRICS), manifest=manifest)


def test_means_and_paired_differences() -> None:
    cells = compare(export())
    assert set(cells["gradcam"]) == {"Del. ↓"}
    base, finer = cells["gradcam"]["Del. ↓"], cells["finer_gradcam"]["Del. ↓"]
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
    assert cells["finer_gradcam"]["Del. ↓"].difference is None
    assert cells["gradcam"]["Del. ↓"].difference == pytest.approx(0.1, abs=0.02)


def test_is_readable() -> None:
    console = Console(width=120, record=True)
    console.print(paper_table(export()))
    text = console.export_text()
    assert "200 images" in text
    assert "finer_gradcam" in text
    assert "-0.1" in text


def test_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = paired_interval(generator.normal(0.3, 1.0, 60), resamples=300)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert np.isnan(paired_interval(np.array([1.0]))).all()
    one = paired_interval(np.arange(10.0))
    assert one == paired_interval(np.arange(10.0))
