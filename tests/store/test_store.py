"""Pieces of the store: halves, the summary by class, atomic files, remote folders."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import finer_ray
from finer_ray.errors import ExportError, StoreError
from finer_ray.store.layout import Layout
from finer_ray.store.storage import Folder
from finer_ray.store.tables import CLASSES, IMAGES, METRICS, conform, summarise, sums
from finer_ray.store.tensors import create_tensors, open_tensors, to_half, write_unit


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-30, 1e30), st.integers(0, 100))
def test_halves_lose_at_most_their_bound(magnitude: float, seed: int) -> None:
    values = (np.random.default_rng(seed).standard_normal((3, 2, 7, 7)) * magnitude).astype(np.float32)
    values[2] = 0
    stored, scale = to_half(values, (1, 2, 3))
    assert stored.dtype == np.float16
    error = np.abs(stored.astype(np.float64) * scale[:, None, None, None] - values)
    assert (error <= 2.0**-11 * np.abs(values).max((1, 2, 3), keepdims=True)).all()
    assert scale[2] == 0


def test_halves_keep_nan_where_it_was() -> None:
    values = np.ones((1, 2, 3, 3), np.float32)
    values[0, 1] = np.nan
    stored, scale = to_half(values, (1, 2, 3))
    assert scale.tolist() == [1.0]
    assert np.isnan(stored[0, 1]).all()
    assert (stored[0, 0] == 1).all()


def lines(*images: tuple[int, int | None, int, int]) -> pa.Table:
    base = {"key": "k", "shard": "s", "index": 0, "probability": 0.5, "predicted_probability": 0.5, "logit": 1.0}
    rest = {"references": [], "reference_logits": [], "reference_probabilities": [], "width": 1, "height": 1}
    rows = [{"row": r, "label": label, "target": t, "predicted": p, **base, **rest} for r, label, t, p in images]
    return pa.Table.from_pylist(rows, IMAGES)


def test_tables_of_other_metrics_are_read_all_the_same(tmp_path: Path) -> None:
    """A metric that has come since is null, one that is not at hand is left out; nothing else may lack."""
    line = {"row": 0, "class": 1, "map": "m", "deletion_auc": 0.5, "localisation": 0.2, "deletion_curve": [0.5, 0.5]}
    now = pa.Table.from_pylist([line], METRICS)
    then = now.drop_columns(["localisation", "deletion_curve"]).append_column("of_a_plugin", pa.array([0.3]))
    expected = {**now.to_pylist()[0], "localisation": None, "deletion_curve": None}
    folder = Folder(str(tmp_path))
    folder.write_table("a.parquet", then)
    assert folder.read_table("a.parquet", METRICS).to_pylist() == [expected]
    assert folder.read_table("a.parquet", METRICS, ["row", "localisation"]).to_pylist() == [
        {"row": 0, "localisation": None}
    ]
    summary = summarise([sums(lines((0, 1, 2, 1)), now)], ["x", "y"])
    older = conform(summary.drop_columns([f"deletion_auc_{what}" for what in ("count", "mean", "stderr")]), CLASSES)
    assert older.schema == CLASSES
    (found,) = older.to_pylist()
    assert (found["deletion_auc_count"], found["deletion_auc_mean"], found["localisation_count"]) == (0, None, 1)
    with pytest.raises(KeyError):
        conform(now.drop_columns("map"), METRICS)


def test_summary_by_class() -> None:
    images = lines((0, 1, 2, 1), (1, 1, 2, 2), (2, None, 1, 1), (3, None, 0, 0))
    scores = {0: (0.2, True), 1: (0.6, False), 2: (None, None), 3: (0.5, True)}
    rows = [
        {"row": r, "map": m, "localisation": s, "pointing_hit": h, "region": None}
        for r, (s, h) in scores.items()
        for m in ("b", "a")
    ]
    metrics = pa.Table.from_pylist(rows, METRICS)
    # In two pieces, of which the second lacks a class.
    pieces = [sums(images.slice(0, 2), metrics), sums(images.slice(2), metrics)]
    table = summarise(pieces, ["x", "y", "z"]).to_pylist()
    assert table == summarise([sums(images, metrics)], ["x", "y", "z"]).to_pylist()
    assert [(line["class"], line["map"]) for line in table] == [(0, "b"), (0, "a"), (1, "b"), (1, "a")]
    one = table[2]
    assert (one["name"], one["count"], one["labelled"], one["accuracy"]) == ("y", 3, 2, 0.5)
    assert (one["localisation_count"], one["pointing_hit_count"]) == (2, 2)
    assert one["localisation_mean"] == pytest.approx(0.4)
    assert one["localisation_stderr"] == pytest.approx(0.2)
    assert one["pointing_hit_mean"] == pytest.approx(0.5)
    assert table[0]["accuracy"] is None
    assert table[0]["localisation_stderr"] is None


def test_a_local_write_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path / "out"))
    folder.write("a/b.json", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match=r"cannot write .*a/b\.json: .*No space left.*make room"):
        folder.write("a/b.json", b"new")
    assert folder.read("a/b.json") == b"old"
    assert [path.name for path in (tmp_path / "out" / "a").iterdir()] == ["b.json"]


def test_units_are_one_object_per_array_and_the_same_bytes_twice(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    layout = Layout(
        maps=("a",), references=0, grid=(2, 3), embedding=None, basis=False, rows_per_unit=4, rows_per_chunk=2
    )
    create_tensors(folder, layout, 8)
    tensors = {"maps": np.ones((3, 1, 2, 3), np.float16), "maps_scale": np.ones((3, 1), np.float32)}

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    write_unit(folder, layout, 1, tensors)
    first = files()
    assert len(first) - len(before) == len(layout.shapes()) == 2
    write_unit(folder, layout, 1, tensors)
    assert files() == first
    maps = open_tensors(folder)["maps"][:]
    assert np.isnan(maps[[0, 1, 2, 3, 7]]).all()
    assert (maps[4:7] == 1).all()
    create_tensors(folder, layout, 16)
    assert open_tensors(folder)["maps"].shape == (16, 1, 2, 3)
    assert (open_tensors(folder)["maps"][4:7] == 1).all()


def test_no_export_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there is no export"):
        finer_ray.open_export(str(tmp_path))


def test_tables_are_written_as_outputs_md_says(tmp_path: Path) -> None:
    rows = np.arange(140_000)
    values = {"row": rows, "class": rows % 7, "map": np.where(rows % 2, "a", "b"), "deletion_auc": rows / 3}
    columns = [
        pa.array(values[field.name]).cast(field.type) if field.name in values else pa.nulls(len(rows), field.type)
        for field in METRICS
    ]
    table = pa.table(columns, schema=METRICS)
    folder = Folder(str(tmp_path))
    folder.write_table("metrics/a.parquet", table)
    assert folder.read_table("metrics/a.parquet", METRICS).equals(table)
    about = pq.ParquetFile(tmp_path / "metrics" / "a.parquet").metadata
    assert [about.row_group(group).num_rows for group in range(about.num_row_groups)] == [131_072, 8_928]
    columns = [about.row_group(1).column(place) for place in range(about.num_columns)]
    found = {column.path_in_schema: column for column in columns}
    assert {column.compression for column in found.values()} == {"ZSTD"}
    assert (found["row"].statistics.min, found["row"].statistics.max) == (131_072, 139_999)
    assert all(column.is_stats_set for column in found.values())
    encodings = {"row": "DELTA_BINARY_PACKED", "deletion_auc": "BYTE_STREAM_SPLIT", "map": "RLE_DICTIONARY"}
    assert all(encoding in found[name].encodings for name, encoding in encodings.items())
    assert "RLE_DICTIONARY" not in found["deletion_auc"].encodings
    for name in ("reference_probabilities_05", "deletion_curve"):
        assert "BYTE_STREAM_SPLIT" in found[f"{name}.list.element"].encodings
