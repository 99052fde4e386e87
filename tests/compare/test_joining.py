"""Which image of one export is which of another."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.compare.joining import joined, shard_pairs
from finer_ray.store.tables import FAILURES
from tests.report.site.exports import make


@pytest.mark.parametrize(
    ("a", "b", "pairs"),
    [
        (["s3://x/1.tar"], ["s3://x/1.tar"], {"s3://x/1.tar": "s3://x/1.tar"}),
        (["/a/1.tar", "/a/2.tar"], ["/b/2.tar"], {"/a/2.tar": "/b/2.tar"}),
        # The one that agrees further is the same; none is left for the other.
        (["/in/train/1.tar", "/in/val/1.tar"], ["/new/val/1.tar"], {"/in/val/1.tar": "/new/val/1.tar"}),
        # Nothing tells which of two it is.
        (["/in/train/1.tar", "/in/val/1.tar"], ["/new/1.tar"], {}),
        (["1.tar"], ["/new/1.tar"], {"1.tar": "/new/1.tar"}),
        (["/a/1.tar"], ["/a/2.tar"], {}),
        ([], ["/a/1.tar"], {}),
    ],
)
def test_shards_are_paired_by_the_longest_common_end(a: list[str], b: list[str], pairs: dict[str, str]) -> None:
    assert shard_pairs(a, b) == pairs


def test_the_nth_of_a_key_is_the_nth_of_that_key(tmp_path: Path) -> None:
    one = make(tmp_path / "a", images=5, key=lambda row: "abaca"[row])
    other = make(tmp_path / "b", images=6, key=lambda row: "xabada"[row])
    found = joined(one, other)
    # Three of `a` and one of `b` in each; `c`, `d` and `x` are in one alone.
    assert list(zip(found.rows_a, found.rows_b, strict=True)) == [(0, 1), (1, 2), (2, 3), (4, 5)]
    assert (found.only_a, found.only_b, found.other_files) == (1, 2, 1)


def test_a_failure_is_one_of_its_key(tmp_path: Path) -> None:
    one, other = (make(tmp_path / name, images=5, key=lambda row: "abaca"[row]) for name in "ab")
    [line] = other.images.slice(0, 1).select(["row", "shard", "index", "key"]).to_pylist()
    failed = [{**line, "stage": "decode", "error": "broken"}, {"shard": line["shard"], "stage": "read", "error": "cut"}]
    other.images, other.failures = other.images.slice(1), pa.Table.from_pylist(failed, FAILURES)
    found = joined(one, other)
    assert found.rows_a.tolist() == found.rows_b.tolist() == [1, 2, 3, 4]
    assert (found.only_a, found.failed, found.other_size) == (1, 1, 0)
    assert joined(other, one).failed == 0


def test_what_a_broken_shard_lost_has_failed(tmp_path: Path) -> None:
    one, other = (make(tmp_path / name, images=5) for name in "ab")
    shard = other.images["shard"][0].as_py()
    cut = [{"shard": shard, "stage": "read", "error": "cut"}]
    other.images, whole = other.images.slice(0, 3), other.failures
    assert joined(one, other).failed == 0
    other.failures = pa.Table.from_pylist(cut, FAILURES)
    found = joined(one, other)
    assert (found.rows_a.tolist(), found.failed) == ([0, 1, 2], 2)
    other.images, other.failures = other.images.slice(0, 0), whole
    assert (len(joined(one, other)), joined(one, other).failed) == (0, 0)


def test_one_key_of_photos_of_two_sizes_is_two_images(tmp_path: Path) -> None:
    one, other = (make(tmp_path / name, images=4) for name in "ab")
    [path] = Path(other.folder.url).glob("images/*.parquet")
    table = pq.read_table(path)
    place = table.column_names.index("width")
    widths = pa.array([80, 7, 80, 80], pa.int32())
    pq.write_table(table.set_column(place, table.schema.field(place), widths), path)
    found = joined(one, other)
    assert found.rows_a.tolist() == [0, 2, 3]
    assert (found.only_a, found.only_b, found.other_size) == (1, 1, 1)
