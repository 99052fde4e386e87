"""Vectors: views that read what a query takes, and Parquet files for other tools."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.errors import ExportError
from finer_ray.report.query_result import answer_table
from finer_ray.store import vector_files, vector_view
from finer_ray.store.query import connect
from finer_ray.store.reading import Export
from finer_ray.store.tensors import read_rows
from finer_ray.store.vector_files import write_vector_files
from tests.probe.exports import gaussians, write_export


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """30 images in units of 8, and three failures behind them."""
    rows, labels = gaussians(30, 6, 3)
    return write_export(
        tmp_path_factory.mktemp("vectors") / "out", rows, labels.tolist(), list("abc"), ["decode"] * 3, 8, 4
    )


def test_the_view_reads_what_a_query_takes(made: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []

    def watched(export: Export, by: Any, rows: np.ndarray) -> np.ndarray:
        read.append(rows.tolist())
        return export.embedding(rows)

    monkeypatch.setattr(vector_view, "read_vectors", watched)
    with connect(made) as connection:
        assert connection.sql("SELECT count(*), min(row), max(row) FROM embeddings").fetchall() == [(30, 0, 29)]
        assert read == []
        [(row, found)] = connection.sql("FROM embeddings WHERE row = 17").fetchall()
        assert (row, read.pop()) == (17, [17])
        np.testing.assert_array_equal(found, made.embedding([17])[0])
        for _ in range(2):
            whole = connection.sql("FROM embeddings ORDER BY row").to_arrow_table()
            assert whole.schema.types == [pa.int64(), pa.list_(pa.float32(), 6)]
            np.testing.assert_array_equal(whole["embedding"].to_pylist(), made.embedding(range(30)))
        assert sum(map(len, read)) == 60
        assert connection.sql("FROM map_embeddings").to_arrow_table().num_rows == 0


def test_a_long_vector_is_shown_by_its_beginning() -> None:
    lists = pa.table({"short": [[0.5] * 32], "long": [[0.25, 1.0, -2.0, *range(1277)]]})
    table, _ = answer_table(lists.to_reader(), 0)
    assert [str(next(iter(column.cells))) for column in table.columns] == [
        f"[{', '.join(['0.5'] * 32)}]",
        "[0.25, 1, -2, ... 1280 in all]",
    ]


def test_sql_finds_the_nearest(made: Export) -> None:
    values = made.embedding(range(30)).astype(np.float64)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    with connect(made) as connection:
        found = connection.sql(
            "SELECT e.row FROM embeddings AS e, (FROM embeddings WHERE row = 4) AS mine "
            "ORDER BY array_cosine_similarity(e.embedding, mine.embedding) DESC LIMIT 5"
        ).fetchall()
    assert [row for (row,) in found] == np.argsort(-values @ values[4])[:5].tolist()


@pytest.mark.parametrize("rows", [[], [3], [5, 2, 3, 2], [0, 31, 8], [31, 0], list(range(32))])
def test_rows_come_as_asked_near_together_or_far_apart(made: Export, rows: list[int]) -> None:
    array = made.tensors["embedding"]
    np.testing.assert_array_equal(read_rows(array, np.array(rows, np.int64)), array[:][rows])
    np.testing.assert_array_equal(read_rows(array, np.array(rows, np.int64), 2), array[:][rows, 2])


@pytest.mark.parametrize(("per_file", "files"), [(1, 30), (7, 5), (10, 3), (30, 1), (100, 1)])
def test_files_hold_every_image_once(
    made: Export, tmp_path: Path, per_file: int, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "FILE_BYTES", 4 * 6 * per_file)
    names, by_key = write_vector_files(made, "embedding", str(tmp_path / "new" / "out"))
    assert by_key
    assert len(names) == files
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == names
    assert [pq.read_metadata(tmp_path / "new" / "out" / name).num_rows for name in names[:-1]] == [per_file] * (
        files - 1
    )
    table = pd.read_parquet(tmp_path / "new" / "out")
    assert table["uuid"].tolist() == [f"k{row}" for row in range(30)]
    assert table["row"].tolist() == list(range(30))
    assert table["emb"].iloc[0].dtype == np.float32
    np.testing.assert_array_equal(np.stack(table["emb"].tolist()), made.embedding(range(30)))


def test_uuids_are_places_where_keys_are_not_unique(made: Export, tmp_path: Path) -> None:
    copy = write_export(tmp_path / "twice", made.embedding(range(3)), [0, 0, 0], ["a"])
    [file] = copy.manifest.tables["images"]
    lines = copy.folder.read_parquet(file)
    copy.folder.write_table(file, lines.set_column(lines.column_names.index("key"), "key", pa.array(["x", "y", "x"])))
    names, by_key = write_vector_files(copy, "embedding", str(tmp_path / "to"))
    assert not by_key
    assert pq.read_table(tmp_path / "to" / names[0])["uuid"].to_pylist() == ["a.tar#0", "a.tar#1", "a.tar#2"]


def test_nothing_is_overwritten(made: Export, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds 'mine.txt'.*name an empty folder"):
        write_vector_files(made, "embedding", str(tmp_path))
    with pytest.raises(ExportError, match=r"write output\.map_embedding: true"):
        write_vector_files(made, "map", str(tmp_path / "none"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_no_images_make_a_file_of_no_lines(tmp_path: Path) -> None:
    none = write_export(tmp_path / "none", np.zeros((0, 4), np.float32), [], ["a"], ["decode"])
    [name], _ = write_vector_files(none, "embedding", str(tmp_path / "to"))
    assert pq.read_table(tmp_path / "to" / name).schema.names == ["uuid", "emb", "row"]
