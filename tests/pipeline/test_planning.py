"""Planning: where an output may lie, and which shards are as they were."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError
from finer_ray.pipeline import planning
from finer_ray.pipeline.export import export
from finer_ray.pipeline.planning import check_places
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import Members, photo, write_tar
from tests.pipeline.exports import by_key, files_of, many
from tests.s3 import Server

Job = Callable[..., Config]
REPLACE = {"on_changed": "replace"}


@pytest.mark.parametrize(
    ("pattern", "output"),
    [
        ("/data/images/*.parquet", "/data"),
        ("/data/images/*.parquet", "/data/images"),
        ("/data/images/a.tar", "/data/images"),
        ("/data/images/{0..3}.tar", "/data"),
        ("/data/images", "/data/images"),
        ("/data/images", "/data/images/"),
        ("/data/images", "/data/images/out"),
        ("/data/images", "/data/other/../images/out/deep"),
        ("/data/**/*.parquet", "/data/out"),
        ("/data/*/*.parquet", "/data/other"),
        ("/data/{a,out}/**", "/data/out"),
        ("/data/*", "/data"),
        ("s3://bucket/data/*.tar", "s3://bucket"),
        ("s3://bucket/data/*.tar", "s3://bucket/data"),
        ("s3://bucket/**/*.parquet", "s3://bucket/out"),
        ("memory://data/images", "memory://data/images/out"),
    ],
)
def test_an_output_that_holds_the_input_or_lies_in_it_is_refused(pattern: str, output: str, s3: Server) -> None:
    with pytest.raises(ConfigError, match=r"output\.url: .*holds input\.shards .*choose a folder of its own"):
        check_places(["/elsewhere/*.tar", pattern], Folder(output))


@pytest.mark.parametrize(
    ("pattern", "output"),
    [
        ("/data/*.tar", "/data/out"),
        ("/data/a.tar", "/data/out"),
        ("/data/*/*.tar", "/data/out"),
        ("/data/images", "/data/images-out"),
        ("/data/images/*.parquet", "/data/out"),
        ("/data/in*/*.parquet", "/data/out"),
        ("/data/{0000..9999}.tar", "/data/out"),
        ("s3://bucket/data/*.tar", "/data"),
        ("s3://bucket/data/*.tar", "s3://bucket/out"),
        ("nonsense://x", "/data"),
    ],
)
def test_an_output_beside_the_input_is_not(pattern: str, output: str, s3: Server) -> None:
    check_places([pattern], Folder(output))


def test_links_do_not_hide_that_places_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="choose a folder of its own"):
        check_places([str(tmp_path / "link" / "in" / "*.tar")], Folder(str(tmp_path / "real")))


def test_a_folder_of_other_data_is_refused_and_left_as_it_is(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "in" / "a.tar", many(4))
    out = tmp_path / "out"
    for name in ("images/train-0.parquet", "metrics/epoch1.parquet", "parts/mine.txt", "retired/mine.csv"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"mine")
    before = files_of(out)
    with pytest.raises(ExportError, match=r"holds other files \(images, metrics, parts, retired\) and no export\.json"):
        export(job(str(tmp_path / "in" / "*.tar")))
    assert files_of(out) == before
    assert not (out / "lease").exists()


def test_what_is_put_into_an_export_later_stays_there(tmp_path: Path, job: Job) -> None:
    """Also where a run replaces, retires and clears up: only what a manifest listed is moved or deleted."""
    write_tar(tmp_path / "in" / "a.tar", many(10))
    write_tar(tmp_path / "in" / "b.tar", many(9, 20))
    config = job(str(tmp_path / "in" / "*.tar"), input=REPLACE)
    export(config)
    out = Path(config.output.url)
    mine = [
        *("images/mine.parquet", "images/unit-00000000.000000.parquet", "metrics/epoch1.parquet", "parts/mine.txt"),
        *("parts/images/mine.parquet", "retired/mine.csv", "retired/images/mine.parquet", "classes/mine.parquet"),
        *("failures/shards-mine.parquet", "report/mine.html", "notes.txt", "lease/mine.json"),
    ]
    for name in mine:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"mine")
    for first in (100, 200, 300):
        write_tar(tmp_path / "in" / "a.tar", many(12, first))
        export(config)
        assert {name for name in mine if (out / name).read_bytes() == b"mine"} == set(mine)
    assert verify_export(config.output.url) == []
    # Of ours, what the state before listed is kept for its readers, and nothing older.
    retired = [path.name for path in (out / "retired").rglob("*.parquet") if path.name != "mine.parquet"]
    obsolete = open_export(config.output.url).manifest.obsolete
    assert sorted(retired) == sorted(name.split("/")[1] for name in obsolete if (out / "retired" / name).exists())
    assert retired


def bmps(labels: str) -> Members:
    """Members without times, of the same sizes whatever the labels."""
    return [m for i, label in enumerate(labels) for m in ((f"s{i}.jpg", photo(i)), (f"s{i}.cls", label.encode()))]


def labels(config: Config) -> list[int]:
    found: list[int] = open_export(config.output.url).images.sort_by("key")["label"].to_pylist()
    return found


def later(path: Path) -> None:
    """As if the file had been written a minute after."""
    stat = path.stat()
    os.utime(path, (stat.st_atime + 60, stat.st_mtime + 60))


def test_a_shard_whose_headers_are_the_same_is_found_changed_by_its_bodies(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tar(tmp_path / "in" / "a.tar", bmps("123456789"))
    config = job(str(tmp_path / "in"), input=REPLACE)
    export(config)
    # Touched, and the same: read, once, and nothing is done.
    later(path)
    tables = open_export(config.output.url).manifest.tables
    assert export(config).new == 0
    with monkeypatch.context() as patch:
        patch.setattr(planning, "unit_digest", lambda *_: pytest.fail("read again"))
        assert export(config).new == 0
    assert open_export(config.output.url).manifest.tables == tables
    write_tar(path, bmps("123456780"))
    later(path)
    with pytest.raises(ExportError, match=r"1 changed: .*a\.tar \(9 images then, 9 now\)"):
        export(job(str(tmp_path / "in")))
    summary = export(config)
    assert summary.new == 9
    assert labels(config) == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert verify_export(config.output.url) == []
    # And the new state is known by what it holds now.
    later(path)
    assert export(config).new == 0


def test_a_damaged_shard_among_others_leaves_a_finished_export_alone(tmp_path: Path, job: Job) -> None:
    """It is counted at every run, and has no units, so that its place among them says nothing."""
    write_tar(tmp_path / "in" / "a.tar", many(9))
    (tmp_path / "in" / "b.tar").write_bytes(b"no tar")
    write_tar(tmp_path / "in" / "c.tar", many(3, 20))
    config = job(str(tmp_path / "in" / "*.tar"))
    export(config)
    before = files_of(Path(config.output.url))
    for _ in range(2):
        assert export(config).new == 0
        assert files_of(Path(config.output.url)) == before
    later(tmp_path / "in" / "c.tar")
    assert export(config).new == 0
    after = files_of(Path(config.output.url))
    assert {path.name for path in before if before[path] != after[path]} == {"export.json"}
    assert before.keys() == after.keys()


def test_bodies_are_compared_also_of_units_that_are_only_committed(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finer_ray.store import tensors

    path = write_tar(tmp_path / "in" / "a.tar", bmps("123456789"))
    config = job(str(tmp_path / "in"), output={"rows_per_unit": 4})
    written = tensors._write

    def third_fails(folder: Folder, layout: Any, unit: int, values: Any) -> None:
        if unit == 2:
            raise KeyboardInterrupt
        written(folder, layout, unit, values)

    with monkeypatch.context() as patch:
        patch.setattr(tensors, "_write", third_fails)
        with pytest.raises(KeyboardInterrupt):
            export(config)
    assert len(Folder(config.output.url).names("parts/images")) == 2
    # Of the third unit nothing was read yet, so that only the first two are compared.
    write_tar(path, bmps("123456780"))
    later(path)
    assert export(config).new == 1
    assert labels(config) == [1, 2, 3, 4, 5, 6, 7, 8, 0]

    config = job(str(tmp_path / "in"), output={"rows_per_unit": 4, "url": str(tmp_path / "second")})
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "_write", third_fails)
        with pytest.raises(KeyboardInterrupt):
            export(config)
    write_tar(path, bmps("723456780"))
    later(path)
    assert export(config).new == 9
    assert labels(config) == [7, 2, 3, 4, 5, 6, 7, 8, 0]
    assert verify_export(config.output.url) == []


def test_an_image_folder_whose_file_was_replaced_by_one_as_large(tmp_path: Path, job: Job) -> None:
    for number in range(3):
        (tmp_path / "in" / "c").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "c" / f"{number}.bmp").write_bytes(photo(number, format="BMP"))
    config = job(str(tmp_path / "in"), input={**REPLACE, "fields": {"label": ""}})
    export(config)
    before = by_key(open_export(config.output.url))
    later(tmp_path / "in" / "c" / "1.bmp")
    assert export(config).new == 0
    (tmp_path / "in" / "c" / "1.bmp").write_bytes(photo(9, format="BMP"))
    later(tmp_path / "in" / "c" / "1.bmp")
    assert export(config).new == 3
    after = by_key(open_export(config.output.url))
    changed = [key for key in before if before[key][2] != after[key][2]]
    assert changed == ["c/1.bmp"]


def test_an_entity_tag_that_differs_is_a_change(tmp_path: Path, job: Job, s3: Server) -> None:
    fs, url = fsspec.filesystem("s3"), f"s3://bucket/{tmp_path.name}"
    for key, content in (("a.tar", bmps("1234")), ("f/c/1.jpg", photo(1)), ("f/c/2.jpg", photo(2))):
        body = write_tar(tmp_path / "x.tar", content).read_bytes() if isinstance(content, list) else content
        fs.pipe_file(f"{url}/in/{key}", body)
    for name, new in (("a.tar", 4), ("f", 2)):
        fields = {"fields": {"label": ""}} if name == "f" else {}
        config = job(f"{url}/in/{name}", input={**REPLACE, **fields}, output={"url": f"{url}/out-{name}"})
        export(config)
        # Put again, and the same: the tag is that of the content.
        for key in fs.find(f"{url}/in/{name}"):
            fs.pipe_file(key, fs.cat_file(key))
        assert export(config).new == 0
        if name == "a.tar":
            fs.pipe_file(f"{url}/in/a.tar", write_tar(tmp_path / "x.tar", bmps("5678")).read_bytes())
        else:
            body = bytearray(photo(2))
            body[-30] ^= 1
            fs.pipe_file(f"{url}/in/f/c/2.jpg", bytes(body))
        assert export(config).new == new
        assert verify_export(config.output.url) == []
    assert labels(job(f"{url}/in/a.tar", output={"url": f"{url}/out-a.tar"})) == [5, 6, 7, 8]


def test_exports_made_before_bodies_were_compared_go_on(tmp_path: Path, job: Job) -> None:
    """A tar that was touched may be another: they are refused. Of an image folder nothing ever said more."""
    write_tar(tmp_path / "in" / "a.tar", bmps("1234"))
    (tmp_path / "folder" / "c").mkdir(parents=True)
    (tmp_path / "folder" / "c" / "1.jpg").write_bytes(photo(1))
    for name, source in (("tar", tmp_path / "in"), ("folder", tmp_path / "folder")):
        config = job(str(source), input={"fields": {"label": ""}}, output={"url": str(tmp_path / f"out-{name}")})
        export(config)
        file = tmp_path / f"out-{name}" / "export.json"
        tree = json.loads(file.read_text())
        for entry in tree["shards"]:
            entry["digests"] = []
            if name == "folder":
                entry["stamp"] = None
        for key in ("base", "obsolete"):
            del tree[key]
        # Nor had the first versions a table of similarity.
        del tree["tables"]["similarity"]
        file.write_text(json.dumps(tree))
        assert export(config).new == 0
        if name == "tar":
            later(tmp_path / "in" / "a.tar")
            with pytest.raises(ExportError, match="1 changed"):
                export(config)
            write_tar(tmp_path / "in" / "b.tar", bmps("56"))
            config = job(
                str(source / "b.tar"), input={"fields": {"label": ""}}, output={"url": str(tmp_path / "out-tar")}
            )
            assert export(config).new == 2
            assert verify_export(config.output.url) == []
