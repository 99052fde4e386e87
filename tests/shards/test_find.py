"""Finding shards below a folder that holds none itself."""

from pathlib import Path

import fsspec
import pytest

from finer_ray.errors import InputError
from finer_ray.shards import find_shards


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_shards_below_are_said_with_the_pattern_that_finds_them(tmp_path: Path) -> None:
    names = ("label=5/a.parquet", "label=7/deep/b.parquet", "label=7/.a.parquet.crc", ".thumbs/x.jpg", "_SUCCESS")
    root = touch(tmp_path / "ds", *names)
    with pytest.raises(InputError) as caught:
        find_shards([str(root)])
    assert f"the folder {str(root)!r} holds no shards itself, but 2 .parquet files below it: give " in str(caught.value)
    pattern = str(caught.value).rsplit("give ", 1)[1].strip("'")
    assert [Path(ref.url).name for ref in find_shards([pattern])] == ["a.parquet", "b.parquet"]
    assert [ref.format for ref in find_shards([str(root)], "folder")] == ["folder"]
    with pytest.raises(InputError, match=r"but 1 \.tar files below it"):
        find_shards([str(touch(tmp_path / "tars", "train/a.tar"))])


@pytest.mark.parametrize("image", ["cat/x.jpg", "cat/deep/x.PNG", "x.webp"])
def test_an_image_folder_may_hold_a_table(tmp_path: Path, image: str) -> None:
    root = touch(tmp_path / "in", image, "notes/labels.parquet")
    assert [(ref.url, ref.format) for ref in find_shards([str(root)])] == [(str(root), "folder")]


def test_an_empty_folder_is_an_image_folder_without_images(tmp_path: Path) -> None:
    assert [ref.format for ref in find_shards([str(tmp_path)])] == ["folder"]


def test_shards_below_a_remote_folder() -> None:
    fsspec.filesystem("memory").pipe_file("/below/ds/x/a.parquet", b"")
    with pytest.raises(InputError, match=r"give 'memory://.*below/ds/\*\*/\*\.parquet'"):
        find_shards(["memory://below/ds"])
