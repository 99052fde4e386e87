"""Similar images: against scikit-learn's search; exactly and by an index; what the command says."""

import sys
from functools import partialmethod
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from typer.testing import CliRunner
from usearch.index import Index

from finer_ray.cli import app
from finer_ray.errors import ExportError, QueryError
from finer_ray.similar import similar_images
from finer_ray.similar.index import index_path
from finer_ray.similar.nearest import nearest
from finer_ray.store.reading import Export
from tests.probe.exports import gaussians, write_export

SIZE, COUNT = 8, 60


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Row 5 has a vector of zeros, one of row 6 is beyond float16."""
    rows, labels = gaussians(COUNT, SIZE, 3)
    rows[5], rows[6, 0] = 0, np.inf
    return write_export(
        tmp_path_factory.mktemp("similar") / "out", rows, labels.tolist(), ["cat", "dog", "owl"], ["decode"], 16, 4
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9))
def test_nearest_is_a_whole_sort(seed: int, count: int, per_block: int) -> None:
    """However the vectors come in blocks; of equal ones the lower row, and vectors of zeros never."""
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (20, 3)).astype(np.float16)
    wanted = np.array([1, 2, -1], np.float16)
    order = random.permutation(20)
    blocks = [(own, vectors[own]) for own in np.array_split(order, range(per_block, 20, per_block))]
    rows, cosines = nearest(blocks, wanted, count)
    exact = vectors.astype(np.float64) @ wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        exact /= np.linalg.norm(vectors.astype(np.float64), axis=1) * np.sqrt(6)
    there = np.flatnonzero(np.isfinite(exact))
    best = there[np.lexsort((there, -exact[there].round(5)))][:count]
    np.testing.assert_allclose(cosines, exact[best], atol=1e-6)
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_allclose(exact[rows], exact[best], atol=1e-6)


def test_finds_what_scikit_learn_finds(made: Export) -> None:
    values = made.embedding(range(COUNT)).astype(np.float64)
    others = np.delete(np.arange(COUNT), [5, 6])
    search = NearestNeighbors(n_neighbors=8, metric="cosine", algorithm="brute").fit(values[others])
    for row in (0, 59):
        distances, places = search.kneighbors(values[[row]])
        found = similar_images(made, row, 7)
        assert found["row"].to_pylist() == others[places[0, 1:]].tolist()
        np.testing.assert_allclose(found["similarity"].to_numpy(), 1 - distances[0, 1:], atol=1e-6)
        assert found["key"].to_pylist() == [f"k{other}" for other in found["row"].to_pylist()]
        assert set(found["label"].to_pylist()) <= {"cat", "dog", "owl"}
    assert similar_images(made, 0, 1000).num_rows == COUNT - 3


@pytest.mark.parametrize(
    ("row", "by", "error", "said"),
    [
        (60, "embedding", QueryError, "no image has the row 60"),
        (5, "embedding", QueryError, "nothing is similar to row 5: its embedding is 0, or beyond float16"),
        (6, "embedding", QueryError, "nothing is similar to row 6"),
        (0, "map", ExportError, r"no map embeddings: write output\.map_embedding: true"),
    ],
)
def test_refusals(made: Export, row: int, by: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        similar_images(made, row, by=by)  # type: ignore[arg-type]


def same(found: pa.Table, expected: pa.Table) -> bool:
    """Whether rows are the same, and similarities but for their last bit, which is that of another sum."""
    names = [name for name in expected.column_names if name != "similarity"]
    near = np.allclose(found["similarity"], expected["similarity"], rtol=0, atol=1e-6)
    return near and found.select(names).equals(expected.select(names))


def test_an_index_is_made_once_for_each_state(made: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Threads that add vectors side by side may leave one unreachable: by one alone the index is the same each time.
    monkeypatch.setattr(Index, "add", partialmethod(Index.add, threads=1))
    folder = tmp_path / "indexes"
    exact = similar_images(made, 3, 5)
    for _ in range(2):
        assert same(similar_images(made, 3, 5, index=folder), exact)
    assert similar_images(made, 3, 1000, index=folder).num_rows == COUNT - 3
    [file] = folder.iterdir()
    assert file == index_path(made, "embedding", folder)
    before = file.stat().st_mtime_ns
    other = Export(made.folder, made.manifest.model_copy(update={"revision": made.manifest.revision + 1}))
    assert same(similar_images(other, 3, 5, index=folder), exact)
    assert len(list(folder.iterdir())) == 2
    assert file.stat().st_mtime_ns == before


def test_says_how_to_get_an_index(made: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(QueryError, match=r'pip install "finer_ray\[index\]"'):
        similar_images(made, 3, index=tmp_path)


def test_the_command(made: Export, tmp_path: Path) -> None:
    url = made.folder.url
    found = CliRunner().invoke(app, ["similar", url, "--key", "k7", "--count", "2", "--format", "csv"])
    lines = found.stdout.splitlines()
    assert lines[0] == "row,key,label,predicted,similarity"
    assert [int(line.split(",")[0]) for line in lines[1:]] == similar_images(made, 7, 2)["row"].to_pylist()
    shown = CliRunner().invoke(app, ["similar", url, "--row", "7", "--count", "2"])
    assert all(f"k{line.split(',')[0]}" in shown.stdout for line in lines[1:])
    for wrong in ([], ["--row", "1", "--key", "k1"]):
        assert CliRunner().invoke(app, ["similar", url, *wrong]).exit_code == 2
    with pytest.raises(QueryError, match=r"x\.gif: a figure is"):
        CliRunner().invoke(app, ["similar", "nowhere", "--row", "7", "--picture", "x.gif"], catch_exceptions=False)
    written = CliRunner().invoke(app, ["embeddings", url, "--to", str(tmp_path / "to")])
    assert written.stdout == f"60 images, files: 1, in {tmp_path / 'to'}\n"
