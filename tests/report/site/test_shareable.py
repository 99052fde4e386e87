"""What a report says of places: nothing of the folders and the machine that it was made on."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from finer_ray.report.site import write_report
from finer_ray.report.site.shareable import ShardNames, shareable, shareable_config
from tests.report.site.exports import make


@pytest.mark.parametrize("blank", ["", " of mine"])
def test_no_file_of_a_report_knows_where_it_was_made(tmp_path: Path, blank: str) -> None:
    deep = tmp_path / f"home{blank}" / "anna" / f"secret{blank}"
    export = make(deep, images=4, failures=[f"cannot read {deep}/in/a.tar: no photo", f"'{deep}/x y.jpg' is broken"])
    export.manifest.config["model"]["weights"] = f"{deep}/weights.safetensors"
    # The second half of the photos is gone, and every page says why.
    shard = deep / "in" / "a.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    write_report(export, tmp_path / "report")
    shard.unlink()
    write_report(export, tmp_path / "again")
    words = {str(tmp_path), "anna", "secret", os.path.expanduser("~/"), socket.gethostname()}
    for path in (path for name in ("report", "again") for path in (tmp_path / name).rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert [word for word in words if word.encode() in content] == [], path
    text = (tmp_path / "again" / "index.html").read_text()
    for said in ("a.tar: its photos cannot be read again", "weights.safetensors", "cannot read a.tar: no photo"):
        assert said in text
    assert "<code>a.tar</code>, image" in (tmp_path / "report" / "images" / "0.html").read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/anna/in/a.tar: gone", "a.tar: gone"),
        ("(/home/anna/in/a.tar)", "(a.tar)"),
        ("No such file: '/home/anna/my photos/a b.tar'", "No such file: 'a b.tar'"),
        ("file:///home/anna/a.tar", "a.tar"),
        ("simplecache::/home/anna/a.tar", "simplecache::a.tar"),
        ("path=/home/anna/a.tar, next", "path=a.tar, next"),
        ("s3://bucket/in/a.tar and http://host:80/x/y.tar", "s3://bucket/in/a.tar and http://host:80/x/y.tar"),
        ("and/or 1/2 of a / b", "and/or 1/2 of a / b"),
        ("s3://key:secret@bucket/a.tar", "s3://***@bucket/a.tar"),
    ],
)
def test_paths_in_messages(text: str, said: str) -> None:
    assert shareable(text) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/home/anna/my photos/*.tar", "*.tar"),
        ("/home/anna/photos/", "photos/"),
        ("s3://bucket/in/*.tar", "s3://bucket/in/*.tar"),
        ("hf-hub:timm/vit", "hf-hub:timm/vit"),
        ({"a": ["/x/y/z", None, 0.5]}, {"a": ["z", None, 0.5]}),
    ],
)
def test_paths_in_configs(value: Any, said: Any) -> None:
    assert shareable_config(value) == said


@pytest.mark.parametrize(
    ("urls", "names"),
    [
        (["/d/in/a.tar"], ["a.tar"]),
        (["/d/in/train/a.tar", "/d/in/val/a.tar"], ["train/a.tar", "val/a.tar"]),
        (["/d/in/a.tar", "/d/in/more/b.tar"], ["a.tar", "more/b.tar"]),
        (["/one/a.tar", "/two/b.tar"], ["a.tar", "b.tar"]),
        (["s3://bucket/in/train/a.tar", "s3://bucket/in/val/a.tar"], ["train/a.tar", "val/a.tar"]),
        (["s3://one/a.tar", "s3://two/a.tar"], ["one/a.tar", "two/a.tar"]),
        (["s3://one/a.tar", "/d/in/a.tar"], ["s3://one/a.tar", "a.tar"]),
    ],
)
def test_names_of_shards(urls: list[str], names: list[str]) -> None:
    known = ShardNames(urls)
    assert [known(url) for url in urls] == names
    assert known("/elsewhere/c.tar") == "c.tar"
