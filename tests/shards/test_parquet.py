"""Parquet shards: columns that folders tell, and pages that their checksums tell to be damaged."""

import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from finer_ray.images.sample import Sample
from finer_ray.shards import Fields, ShardRef, fields_of, find_shards, index_shard, list_keys, read_unit
from finer_ray.shards.parquet import FIRST_KEY, hive_columns
from tests.conftest import photo


def read_all(ref: ShardRef, **fields: str) -> list[Sample]:
    given = fields_of("parquet", fields)
    index = index_shard(ref, given, 100)
    assert index.problem is None, index.problem
    samples = list(read_unit(ref, given, 0, index.count, 2**20))
    assert [sample.key for sample in samples] == list(list_keys(ref, given))
    return samples


@pytest.mark.parametrize(
    "value", [5, 0, -3, 2**31 - 1, "cat", "a b/c=d%25", "gr\u00fcn", "1.5", "+5", "1_000", "\u0665"]
)
def test_folders_are_columns_as_pyarrow_has_them(tmp_path: Path, value: Any) -> None:
    table = pa.table({"image": [photo(1)], "label": pa.array([value])})
    pq.write_to_dataset(table, tmp_path / "ds", partition_cols=["label"])
    (ref,) = find_shards([f"{tmp_path}/ds/**/*.parquet"])
    (sample,) = read_all(ref)
    whole = ds.dataset(tmp_path / "ds", partitioning="hive").to_table()
    assert sample.label == whole["label"].to_pylist()[0]
    assert sample.image == photo(1)


def test_hives_folder_of_nulls_is_null(tmp_path: Path) -> None:
    table = pa.table({"image": [photo(1), photo(2)], "label": pa.array([None, 7])})
    pq.write_to_dataset(table, tmp_path / "ds", partition_cols=["label"])
    found = [(s.image, s.label) for ref in find_shards([f"{tmp_path}/ds/**/*.parquet"]) for s in read_all(ref)]
    assert sorted(found, key=str) == sorted([(photo(1), None), (photo(2), 7)], key=str)


def test_what_folders_tell_is_asked_for_by_any_name(tmp_path: Path) -> None:
    place = tmp_path / "id=7" / "mask=1" / "image=3" / "box_xyxy=2" / "species=barn%20owl"
    place.mkdir(parents=True)
    pq.write_table(pa.table({"image": [photo(1), photo(2)]}), place / "a.parquet")
    ref = ShardRef(str(place / "a.parquet"), "parquet")
    # A path is no image, mask or box; a key that all rows have is not taken by itself.
    assert read_all(ref) == [Sample("0", photo(1)), Sample("1", photo(2))]
    asked = read_all(ref, label="species", text="species", contrast_text="id", key="id")
    assert asked == [Sample("7", error="id: expected a text, got 7")] * 2
    asked = read_all(ref, label="id", text="species", contrast_text="species", key="species")
    assert asked == [Sample("barn owl", photo(i), 7, text="barn owl", contrast_text="barn owl") for i in (1, 2)]


def test_a_files_own_column_comes_first(tmp_path: Path) -> None:
    place = tmp_path / "label=9"
    place.mkdir()
    pq.write_table(pa.table({"image": [photo(1)], "label": [4]}), place / "a.parquet")
    assert [sample.label for sample in read_all(ShardRef(str(place / "a.parquet"), "parquet"))] == [4]
    missing = index_shard(ShardRef(str(place / "a.parquet"), "parquet"), Fields(image="image", label="species"), 8)
    assert missing.problem == "no column for the label: looked for species; columns: image, label, label"


def test_folders_of_a_remote_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [photo(1)]}), tmp_path / "a.parquet")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/hive/label=5/a.parquet", (tmp_path / "a.parquet").read_bytes())
    (ref,) = find_shards(["memory://hive/*/*.parquet"])
    assert [sample.label for sample in read_all(ref)] == [5]


@pytest.mark.parametrize(
    "url", ["a.parquet", "/x=/a.parquet", "/=5/a.parquet", "s3://b/a=1.parquet", "/label=__HIVE_DEFAULT_PARTITION__/a"]
)
def test_paths_that_tell_nothing(url: str) -> None:
    assert not any(value is not None for value in hive_columns(url).values())


def test_a_damaged_page_is_told_by_its_checksum_alone(tmp_path: Path) -> None:
    """Uncompressed, so that the values themselves are read without complaint."""
    images = [os.urandom(3000) for _ in range(6)]
    path = tmp_path / "a.parquet"
    options = {"compression": "none", "use_dictionary": False, "row_group_size": 2, "write_statistics": False}
    for checksums in (False, True):
        pq.write_table(pa.table({"image": images}), path, write_page_checksum=checksums, **options)
        content = bytearray(path.read_bytes())
        content[content.index(images[2]) + 100] ^= 1
        path.write_bytes(content)
        samples = read_all(ShardRef(str(path), "parquet"))
        right = [sample.image == image for sample, image in zip(samples, images, strict=True)]
        assert [sample.error is None for sample in samples] == [True, True, not checksums, not checksums, True, True]
        assert right == [True, True, False, not checksums, True, True]
    assert all("row group 1 cannot be read" in (sample.error or "") for sample in samples[2:4])


@pytest.mark.parametrize("name", ["__key__", "key", "id", "uuid", "file_name"])
def test_keys_by_the_names_that_people_give_them(tmp_path: Path, name: str) -> None:
    table = pa.table({"image": [photo(1), photo(2)], name: ["a/1.jpg", None]})
    pq.write_table(table, tmp_path / "a.parquet")
    ref = ShardRef(str(tmp_path / "a.parquet"), "parquet")
    assert [sample.key for sample in read_all(ref)] == ["a/1.jpg", "1"]
    # In an earlier version's export, and where none of them is there, it is the row's number.
    first = ["a/1.jpg", "1"] if name in FIRST_KEY else ["0", "1"]
    assert [sample.key for sample in read_all(ref, key=FIRST_KEY)] == first


def test_part_masks_stand_in_a_column(tmp_path: Path) -> None:
    table = pa.table({"image": [photo(1), photo(2)], "regions": [{"bytes": b"ids"}, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    ref = ShardRef(str(tmp_path / "a.parquet"), "parquet")
    assert [sample.parts for sample in read_all(ref, parts="regions")] == [b"ids", None]
    assert [sample.parts for sample in read_all(ref)] == [None, None]
    lacking = index_shard(ref, fields_of("parquet", {"parts": "segments"}), 100)
    assert "no column for the parts: looked for segments" in (lacking.problem or "")
