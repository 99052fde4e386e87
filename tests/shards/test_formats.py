"""Shards of every format: counted, cut into units, read back, whatever is wrong with them."""

import errno
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer_ray.errors import InputError, StoreError
from finer_ray.images.sample import Sample
from finer_ray.shards import (
    Fields,
    ShardIndex,
    ShardRef,
    fields_of,
    find_shards,
    index_shard,
    list_keys,
    read_unit,
    stamps,
    unit_digest,
)
from tests.conftest import photo, sample, write_tar

WDS = fields_of("webdataset")
LIMIT = 2**20
TMP = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(ref: ShardRef, fields: Fields, rows_per_unit: int, index: ShardIndex | None = None) -> list[Sample]:
    index = index or index_shard(ref, fields, rows_per_unit)
    samples = []
    for unit, start in enumerate(index.starts):
        count = min(rows_per_unit, index.count - unit * rows_per_unit)
        samples += list(read_unit(ref, fields, start, count, LIMIT))
    return samples


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardRef]:
    """The same 13 photos in each format."""
    root = tmp_path_factory.mktemp("shards")
    with webdataset.TarWriter(str(root / "a.tar")) as sink:
        for i in range(13):
            sink.write({"__key__": f"dir/k{i}", "jpg": photo(i), "cls": i % 3, "json": {"box_xyxy": [1, 2, 3, 4]}})
    rows = [
        {"image": {"bytes": photo(i), "path": f"{i}.jpg"}, "label": i % 3, "box_xyxy": [1, 2, 3, 4]} for i in range(13)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "b.parquet", row_group_size=5)
    for i in range(13):
        path = root / "folder" / f"class{i % 3}" / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(i))
    return {
        "webdataset": ShardRef(str(root / "a.tar"), "webdataset"),
        "parquet": ShardRef(str(root / "b.parquet"), "parquet"),
        "folder": ShardRef(str(root / "folder"), "folder"),
    }


@pytest.mark.parametrize("format", ["webdataset", "parquet", "folder"])
def test_units_of_any_size_give_the_same_samples(shards: dict[str, ShardRef], format: str) -> None:
    ref, fields = shards[format], fields_of(format)
    whole = read_all(ref, fields, 1000)
    assert len(whole) == 13
    assert {s.image for s in whole} == {photo(i) for i in range(13)}
    assert [s.key for s in whole] == list(list_keys(ref, fields))
    for size in range(1, 14):
        assert read_all(ref, fields, size) == whole


def test_annotations_of_each_format(shards: dict[str, ShardRef]) -> None:
    tar, table = (read_all(shards[f], fields_of(f), 100) for f in ("webdataset", "parquet"))
    assert [s.label for s in tar] == [s.label for s in table] == [i % 3 for i in range(13)]
    assert {s.box for s in tar + table} == {(1.0, 2.0, 3.0, 4.0)}
    assert tar[0].key == "dir/k0"
    assert {s.label for s in read_all(shards["folder"], fields_of("folder"), 100)} == {
        "class0",
        "class1",
        "class2",
    }


@TMP
@given(cut=st.integers(0, 20_000))
def test_a_tar_cut_anywhere_keeps_its_whole_samples(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "t.tar", [m for i in range(5) for m in sample(f"k{i}", i, i)])
    with tarfile.open(path) as tar:
        ends = [m.offset_data + m.size for m in tar][1::2]
    body = path.read_bytes()
    cut %= ends[-1]
    path.write_bytes(body[:cut])
    ref = ShardRef(str(path), "webdataset")
    index = index_shard(ref, WDS, 2)
    kept = [s for s in read_all(ref, WDS, 2, index) if s.error is None and s.label is not None]
    whole = sum(end <= cut for end in ends)
    assert index.problem
    assert [s.label for s in kept] == list(range(whole))
    # A photo whose JSON was cut off cleanly may be kept without its label, and the shard's problem says so.
    assert whole <= index.count <= whole + 1


@TMP
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_tar_never_raises(tmp_path: Path, place: int, byte: int) -> None:
    path = write_tar(tmp_path / "t.tar", [m for i in range(3) for m in sample(f"k{i}", i, i)])
    body = bytearray(path.read_bytes())
    body[place % len(body)] = byte
    path.write_bytes(body)
    ref = ShardRef(str(path), "webdataset")
    index = index_shard(ref, WDS, 2)
    assert len(read_all(ref, WDS, 2, index)) == index.count


@TMP
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_parquet_never_raises(tmp_path: Path, place: int, byte: int) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [photo(i) for i in range(3)], "label": [0, 1, 2]}), path)
    body = bytearray(path.read_bytes())
    body[place % len(body)] = byte
    path.write_bytes(body)
    ref, fields = ShardRef(str(path), "parquet"), fields_of("parquet")
    index = index_shard(ref, fields, 2)
    if index.count < 100:
        assert len(read_all(ref, fields, 2, index)) == index.count


def test_names_are_text_and_never_paths(tmp_path: Path) -> None:
    names = ["../../up", "/abs/olute", "uni ✓ ☂", "x" * 300, "a\nb"]
    path = tmp_path / "t.tar"
    with webdataset.TarWriter(str(path)) as sink:
        for name in names:
            sink.write({"__key__": name, "jpg": photo(1)})
    keys = list(list_keys(ShardRef(str(path), "webdataset"), WDS))
    assert keys == names
    assert list(tmp_path.iterdir()) == [path]


def test_bad_annotations_name_their_field(tmp_path: Path) -> None:
    notes = ['{"label": 1.5}', '{"label": true}', "{", '{"box_xyxy": [1, 2, 1, 9]}', '{"box_xyxy": [1, 2, NaN, 9]}']
    members = [m for i, n in enumerate(notes) for m in [(f"k{i}.jpg", photo(i)), (f"k{i}.json", n.encode())]]
    members += [("huge.jpg", b"x" * (LIMIT + 1)), ("none.json", b"{}")]
    ref = ShardRef(str(write_tar(tmp_path / "t.tar", members)), "webdataset")
    errors = [s.error or "" for s in read_all(ref, WDS, 100)]
    starts = ["json.label:", "json.label:", "json:", "json.box_xyxy:", "json.box_xyxy:", "jpg:", "no image member"]
    assert len(errors) == len(starts)
    assert all(error.startswith(start) for error, start in zip(errors, starts, strict=True)), errors


def test_a_shard_that_shrinks_or_vanishes_after_counting_is_the_store_s_fault(tmp_path: Path) -> None:
    """Never its images': they would be failures for good, and the next run would not look at them again."""
    path = write_tar(tmp_path / "t.tar", [m for i in range(6) for m in sample(f"k{i}", i, i)])
    ref = ShardRef(str(path), "webdataset")
    index = index_shard(ref, WDS, 4)
    mark = stamps([ref])
    write_tar(path, sample("k0", 0, 0))
    with pytest.raises(StoreError, match=r"1 of 4 samples .*fewer samples than the 4 that were counted"):
        read_all(ref, WDS, 4, index)
    assert stamps([ref]) != mark
    path.unlink()
    with pytest.raises(StoreError, match=r"0 of 4 samples .*FileNotFoundError.*Run the same command again"):
        read_all(ref, WDS, 4, index)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ENOTCONN])
@pytest.mark.parametrize("name", ["webdataset", "parquet", "folder"])
def test_a_disk_that_fails_while_a_counted_shard_is_read(
    name: str, code: int, shards: dict[str, ShardRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening works, the second half of the reads does not. Of an image folder, no permission is a file's own fault."""
    ref = shards[name]
    fields = fields_of(name)
    index = index_shard(ref, fields, 100)
    opened = LocalFileSystem.open
    state = {"fails": False}

    class Failing(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            if state["fails"]:
                raise OSError(code, os.strerror(code))
            return super().read(*args)

    def open_failing(self: LocalFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        with opened(self, path, "rb") as file:
            return Failing(file.read())

    monkeypatch.setattr(LocalFileSystem, "open", open_failing)
    samples = read_unit(ref, fields, index.starts[0], index.count, LIMIT)
    assert next(samples).error is None
    state["fails"] = True
    if name == "parquet":
        # Its few rows were read at once; the next reader finds the disk failing.
        samples = read_unit(ref, fields, index.starts[0], index.count, LIMIT)
    if name == "folder" and code == errno.EACCES:
        assert all("cannot be read" in (sample.error or "") for sample in samples)
    else:
        with pytest.raises(StoreError, match="though they were counted"):
            list(samples)


def test_a_unit_s_digest_tells_every_part_of_its_samples(tmp_path: Path) -> None:
    """Headers may be the same to the last byte: members have no times, and all sizes are as they were."""
    members = [m for i in range(4) for m in ((f"k{i}.bmp", photo(i, format="BMP")), (f"k{i}.cls", b"1"))]
    ref = ShardRef(str(write_tar(tmp_path / "t.tar", members)), "webdataset")
    index = index_shard(ref, WDS, 4)
    first = unit_digest(ref, WDS, 0, 4, LIMIT)
    assert unit_digest(ref, WDS, 0, 4, LIMIT) == first
    seen = {first}
    for place, (name, body) in enumerate(members):
        other = body[:-1] + bytes([body[-1] ^ 1])
        write_tar(tmp_path / "t.tar", [*members[:place], (name, other), *members[place + 1 :]])
        again = index_shard(ref, WDS, 4)
        assert (again.fingerprint, again.count) == (index.fingerprint, index.count)
        seen.add(unit_digest(ref, WDS, 0, 4, LIMIT))
    assert len(seen) == 1 + len(members)


def test_remote_shards_are_read_like_local_ones(shards: dict[str, ShardRef]) -> None:
    fs = fsspec.filesystem("memory")
    for name in ("webdataset", "parquet"):
        local = shards[name]
        url = f"memory://bucket/{Path(local.url).name}"
        fs.pipe_file(url, Path(local.url).read_bytes())
        (remote,) = find_shards([url])
        fields = fields_of(name)
        assert read_all(remote, fields, 4) == read_all(local, fields, 4)
        assert index_shard(remote, fields, 4).fingerprint == index_shard(local, fields, 4).fingerprint


def test_an_index_survives_json(shards: dict[str, ShardRef]) -> None:
    index = index_shard(shards["webdataset"], WDS, 4)
    assert ShardIndex.from_json(json.loads(json.dumps(index.to_json()))) == index


def test_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("s-0000.tar", "s-0001.tar", "s-0002.tar", "x.parquet", "y.tar.gz", "z.bin"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)

    def names(*patterns: str) -> list[str]:
        return [Path(ref.url).name for ref in find_shards(patterns)]

    assert names("s-{0000..0001}.tar") == ["s-0000.tar", "s-0001.tar"]
    assert names("s-*.tar", "s-0000.tar", "x.parquet") == ["s-0000.tar", "s-0001.tar", "s-0002.tar", "x.parquet"]
    assert names(".") == ["s-0000.tar", "s-0001.tar", "s-0002.tar", "x.parquet"]
    assert all(Path(ref.url).is_absolute() for ref in find_shards(["s-*.tar"]))
    with pytest.raises(InputError, match=r"there is no 's-0003.tar' \(nearest: s-0002.tar"):
        find_shards(["s-0003.tar"])
    with pytest.raises(InputError, match="nothing matches"):
        find_shards(["t-*.tar"])
    with pytest.raises(InputError, match="unpack it first"):
        find_shards(["y.tar.gz"])
    with pytest.raises(InputError, match=r"input\.format"):
        find_shards(["z.bin"])
