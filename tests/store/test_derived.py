"""Derived tables: of which state of an export they are, and whose they are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.errors import ExportError
from finer_ray.store import derived
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.store.tables import DERIVED, PAIRS
from tests.store.exports import write_small_export

LINE = {"class": 1, "name": "a", "reference": 2, "reference_name": "b", "images": 3, "logit_gap": 0.5}


@pytest.fixture
def made(tmp_path: Path) -> Export:
    return open_export(str(write_small_export(tmp_path) / "demo_export"))


def table() -> pa.Table:
    return pa.Table.from_pylist([LINE], PAIRS)


def count(made: Export) -> int:
    with connect(made) as connection:
        return len(connection.sql("FROM pairs").fetchall())


def test_it_is_read_while_the_export_is_as_it_was(made: Export) -> None:
    with pytest.raises(ExportError, match=r"pairs\.parquet is not there: run `finer-ray pairs /.*`, which makes it"):
        derived.read(made, "pairs")
    assert count(made) == 0
    derived.write(made, "pairs", table())
    for export in (made, open_export(made.folder.url)):
        assert derived.read(export, "pairs").to_pylist()[0].items() >= LINE.items()
        assert count(export) == 1


@pytest.mark.parametrize("change", [{"revision": 1}, {"head_fingerprint": "other"}, {"classes": ["a", "b"]}])
def test_of_another_state_it_is_not_read(made: Export, change: dict[str, object]) -> None:
    derived.write(made, "pairs", table())
    other = Export(made.folder, made.manifest.model_copy(update=change))
    with pytest.raises(ExportError, match="is of another state of the export: run `finer-ray pairs"):
        derived.read(other, "pairs")
    assert count(other) == 0
    earlier = derived.earlier(other, "pairs")
    assert earlier is not None
    assert earlier["images"].to_pylist() == [3]


def test_signs_of_change_and_places_do_not_matter(made: Export) -> None:
    """Shards that were touched, or lie elsewhere now, are the same; so is a copy of the export."""
    derived.write(made, "pairs", table())
    shards = [entry.model_copy(update={"stamp": "later"}) for entry in made.manifest.shards]
    assert derived.is_current(Export(made.folder, made.manifest.model_copy(update={"shards": shards})), "pairs")


def test_other_columns_are_another_state(made: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier version wrote is made again."""
    derived.write(made, "pairs", table())
    monkeypatch.setitem(DERIVED, "pairs", pa.schema([*PAIRS, pa.field("new", pa.int32())]))
    assert not derived.is_current(made, "pairs")
    assert derived.earlier(made, "pairs") is None


@pytest.mark.parametrize("content", [b"mine", b"PAR1 half"])
def test_a_file_that_is_none_of_ours_is_neither_read_nor_overwritten(made: Export, content: bytes) -> None:
    file = Path(made.folder.path("pairs.parquet"))
    file.write_bytes(content)
    _refused(made, file)


def test_a_table_of_somebody_else_s(made: Export) -> None:
    file = Path(made.folder.path("pairs.parquet"))
    pq.write_table(table(), file)
    _refused(made, file)


def test_nor_is_a_folder(made: Export) -> None:
    part = Path(made.folder.path("pairs.parquet")) / "part-0.parquet"
    part.parent.mkdir()
    part.write_bytes(b"mine")
    _refused(made, part)


def _refused(made: Export, file: Path) -> None:
    before = file.read_bytes()
    assert count(made) == 0
    assert derived.earlier(made, "pairs") is None
    for act in (lambda: derived.check_vacant(made, "pairs"), lambda: derived.write(made, "pairs", table())):
        with pytest.raises(ExportError, match=r"pairs\.parquet was not written by finer_ray, and is not overwritten"):
            act()
    assert file.read_bytes() == before
