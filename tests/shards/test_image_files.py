"""Image files by patterns and lists: one data set, with a folder's keys, labels, sheets, and signs of change."""

import os
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError, InputError
from finer_ray.images.sample import Sample
from finer_ray.pipeline.export import export
from finer_ray.shards import ShardRef, fields_of, find_shards, index_shard, list_keys, read_unit, stamps
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import photo, sample, write_tar
from tests.shards.test_folder import put

Job = Callable[..., Config]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for i, name in enumerate(["1.jpg", "2.JPG", "3.png", "cat/4.jpg", "cat/deep/5.jpg", "dog/6.jpg", ".hidden.jpg"]):
        put(root / name, photo(i))
    put(root / "metadata.csv", b"file_name,x\n1.jpg,one\ncat/4.jpg,four\n")
    put(root / "notes.txt", b"none")
    return root


def labels(refs: list[ShardRef], **given: str) -> dict[str, int | str | None]:
    """Label by key, of images that can be read."""
    found: dict[str, int | str | None] = {}
    for ref in refs:
        fields = fields_of(ref.format, given)
        index = index_shard(ref, fields, 2)
        units = ((start, min(2, index.count - start)) for start in index.starts)
        samples = [each for start, count in units for each in read_unit(ref, fields, start, count, 2**20)]
        assert [each.key for each in samples] == list(list_keys(ref, fields))
        assert all(each.image for each in samples), samples
        found |= {each.key: each.label for each in samples}
    return found


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("*.jpg", {"1.jpg": None}),
        ("*.[jJ][pP][gG]", {"1.jpg": None, "2.JPG": None}),
        ("*.{jpg,png}", {"1.jpg": None, "3.png": None}),
        ("{1..3}.{jpg,JPG,png}", None),
        ("{1.jpg,3.png}", {"1.jpg": None, "3.png": None}),
        ("1.jpg", {"1.jpg": None}),
        ("*/*.jpg", {"cat/4.jpg": "cat", "dog/6.jpg": "dog"}),
        ("cat/*.jpg", {"4.jpg": None}),
        ("{cat,dog}/*.jpg", {"cat/4.jpg": "cat", "dog/6.jpg": "dog"}),
        ("**/*.jpg", {"1.jpg": None, "cat/4.jpg": "cat", "cat/deep/5.jpg": "cat", "dog/6.jpg": "dog"}),
        ("c*/**/*.jpg", {"cat/4.jpg": "cat", "cat/deep/5.jpg": "cat"}),
    ],
)
def test_a_pattern_of_images_is_one_shard(photos: Path, pattern: str, keys: dict[str, str | None] | None) -> None:
    """The images of a remote folder are the same."""
    memory = fsspec.filesystem("memory")
    for path in photos.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/{photos.name}{len(str(photos))}/{path.relative_to(photos)}", path.read_bytes())
    for root in (str(photos), f"memory://{photos.name}{len(str(photos))}"):
        if keys is None:
            with pytest.raises(InputError, match="there is no"):
                find_shards([f"{root}/{pattern}"])
            continue
        refs = find_shards([f"{root}/{pattern}"])
        assert [ref.format for ref in refs] == ["folder"]
        assert labels(refs) == keys


def test_what_a_pattern_names_beside_images(photos: Path, tmp_path: Path) -> None:
    write_tar(photos / "a.tar", sample("a", 1))
    refs = find_shards([f"{photos}/*"])
    assert {(Path(ref.url).name, ref.format) for ref in refs} == {
        ("*", "folder"), ("a.tar", "webdataset"), ("cat", "folder"), ("dog", "folder")
    }  # fmt: skip
    assert labels([ref for ref in refs if ref.url.endswith("*")]).keys() == {"1.jpg", "2.JPG", "3.png"}
    # One image each, where each is named by itself.
    assert [Path(ref.url).name for ref in find_shards([str(photos / "1.jpg"), str(photos / "3.png")])] == [
        "1.jpg",
        "3.png",
    ]
    with pytest.raises(InputError, match="nothing matches"):
        find_shards([f"{photos}/*.webp"])


def test_a_sheet_beside_what_a_pattern_names(photos: Path) -> None:
    for pattern, expected in (
        ("*.jpg", {"1.jpg": "one"}),
        ("{1.jpg,cat/4.jpg}", {"1.jpg": "one", "cat/4.jpg": "four"}),
    ):
        assert labels(find_shards([f"{photos}/{pattern}"]), label="x") == expected


def test_links_that_a_pattern_matches(tmp_path: Path) -> None:
    root, away = tmp_path / "in", put(tmp_path / "away.jpg", photo(1))
    put(root / "1.jpg", photo(2))
    (root / "2.jpg").symlink_to(away)
    (root / "other").symlink_to(tmp_path)
    ref = find_shards([f"{root}/*.jpg"])[0]
    first, second = read_unit(ref, fields_of("folder"), 0, 2, 2**20)
    assert first.image == photo(2)
    assert "a link out of the folder" in (second.error or "")
    # Who names the link itself means it.
    assert labels(find_shards([f"{root}/2.jpg"])) == {"2.jpg": None}


LISTED = {
    "list.txt": "cat/4.jpg\r\n./1.jpg\n\n",
    "list.csv": "file_name,x\ncat/4.jpg,four\n1.jpg,one\n",
    "list.jsonl": '{"file_name": "1.jpg", "x": "one"}\n{"file_name": "cat/4.jpg", "x": "four"}\n',
}


@pytest.mark.parametrize("name", LISTED)
def test_a_list_names_the_images_of_its_folder(photos: Path, name: str) -> None:
    refs = find_shards([str(put(photos / name, LISTED[name].encode()))])
    assert labels(refs) == {"1.jpg": None, "cat/4.jpg": "cat"}
    if name != "list.txt":
        assert labels(refs, label="x") == {"1.jpg": "one", "cat/4.jpg": "four"}
    memory = fsspec.filesystem("memory")
    for path in (name, "1.jpg", "cat/4.jpg"):
        memory.pipe_file(f"/listed/{path}", (photos / path).read_bytes())
    assert labels(find_shards([f"memory://listed/{name}"])) == {"1.jpg": None, "cat/4.jpg": "cat"}


@pytest.mark.parametrize("many", [0, 40])
def test_every_name_of_a_list_is_an_image_or_a_failure(photos: Path, many: int) -> None:
    secret = put(photos.parent / "secret.jpg", photo(9))
    (photos / "link.jpg").symlink_to(secret)
    (photos / "inner.jpg").symlink_to("1.jpg")
    for i in range(many):
        put(photos / f"m{i}.jpg", photo(1))
    bad = [
        "../secret.jpg",
        str(secret),
        "gone.jpg",
        "cat",
        "link.jpg",
        "file:///etc/passwd.jpg",
        "cat/../../secret.jpg",
    ]
    good = ["1.jpg", "inner.jpg", "cat/deep/5.jpg", *(f"m{i}.jpg" for i in range(many))]
    ref = find_shards([str(put(photos / "list.txt", "\n".join([*bad, *good]).encode()))])[0]
    index = index_shard(ref, fields_of("folder"), 100)
    found = {each.key: each for each in read_unit(ref, fields_of("folder"), 0, index.count, 2**20)}
    assert {key for key, each in found.items() if each.image} == set(good)
    assert found["1.jpg"] == Sample("1.jpg", photo(0))
    errors = {key: each.error for key, each in found.items() if each.error}
    assert len(errors) == len(bad) - 1
    assert errors["../secret.jpg"] == errors[str(secret)] == "the name leads out of the folder of its list"
    assert errors["gone.jpg"] == errors["cat"] == "there is no such file"
    assert "a link out of the folder" in (errors["link.jpg"] or "")


@pytest.mark.parametrize("pattern", ["*.jpg", "**/*.jpg", "{1.jpg,2.JPG}", "list.csv"])
def test_signs_of_change_are_of_the_files_that_are_meant(photos: Path, pattern: str) -> None:
    put(photos / "list.csv", b"file_name\n1.jpg\n2.JPG\n")
    [ref] = find_shards([f"{photos}/{pattern}"])
    before = stamps([ref])
    assert before[ref.url]
    put(photos / "3.png", b"other")
    put(photos / "notes.txt", b"other")
    put(photos / ".hidden.jpg", b"other")
    assert stamps([ref]) == before
    os.utime(photos / "1.jpg", (1, 1))
    assert stamps([ref]) != before
    before = stamps([ref])
    os.utime(photos / ("list.csv" if pattern == "list.csv" else "metadata.csv"), (1, 1))
    assert (stamps([ref]) != before) == (not pattern.startswith("{"))
    for name in ("1.jpg", "2.JPG", "list.csv", "cat/4.jpg", "cat/deep/5.jpg", "dog/6.jpg"):
        (photos / name).unlink()
    assert stamps([ref]) == {}
    assert index_shard(ref, fields_of("folder"), 8).count in (0, 2)


def test_an_export_of_a_pattern_grows_as_asked(photos: Path, job: Job) -> None:
    config = job([f"{photos}/*.jpg", f"{photos}/3.png"])
    assert export(config).images == 2
    assert verify_export(config.output.url) == []
    assert export(config).new == 0
    put(photos / "7.jpg", photo(7))
    with pytest.raises(ExportError, match=r"1 changed: .*\*\.jpg \(1 images then, 2 now\)"):
        export(config)
    again = job([f"{photos}/*.jpg", f"{photos}/3.png"], input={"on_changed": "replace"})
    assert export(again).images == 3
    assert set(open_export(again.output.url).images["key"].to_pylist()) == {"1.jpg", "3.png", "7.jpg"}
    assert verify_export(again.output.url) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_web_server_that_gives_files_and_no_listing(photos: Path, status: int) -> None:
    class Files(SimpleHTTPRequestHandler):
        def list_directory(self, path: object) -> None:
            self.send_error(status)

        def log_message(self, *args: object) -> None:
            pass

    put(photos / "list.txt", b"1.jpg\ncat/4.jpg\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=photos)) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert labels(find_shards([f"{url}/{{1.jpg,2.JPG}}"])) == {"1.jpg": None, "2.JPG": None}
        assert labels(find_shards([f"{url}/list.txt"])) == {"1.jpg": None, "cat/4.jpg": "cat"}
        server.shutdown()
        thread.join()
