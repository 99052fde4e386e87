"""Fields: null is the format's own place of an annotation, '' switches it off."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.shards import fields_of, find_shards, index_shard, read_unit
from tests.conftest import photo, sample, write_tar


def webdataset(root: Path) -> str:
    return str(write_tar(root / "a.tar", sample("a", 0, "cat")))


def parquet(root: Path) -> str:
    pq.write_table(pa.table({"image": [photo(0)], "label": ["cat"]}), root / "a.parquet")
    return str(root / "a.parquet")


def folder(root: Path) -> str:
    (root / "in" / "cat").mkdir(parents=True)
    (root / "in" / "cat" / "a.jpg").write_bytes(photo(0))
    return str(root / "in")


@pytest.mark.parametrize("make", [webdataset, parquet, folder])
@pytest.mark.parametrize(("given", "label"), [({}, "cat"), ({"label": None}, "cat"), ({"label": ""}, None)])
def test_labels(make: Callable[[Path], str], given: dict[str, str | None], label: str | None, tmp_path: Path) -> None:
    [ref] = find_shards([make(tmp_path)])
    fields = fields_of(ref.format, given)
    index = index_shard(ref, fields, 8)
    [found] = read_unit(ref, fields, index.starts[0], index.count, 2**20)
    assert found.image is not None
    assert found.error is None
    assert found.label == label
