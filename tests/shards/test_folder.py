"""Image folders: what is not followed or cannot be listed is counted, and fails by name."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finer_ray.images.sample import Sample
from finer_ray.shards import ShardIndex, ShardRef, fields_of, index_shard, list_keys, read_unit
from tests.conftest import photo

FOLDER = fields_of("folder")


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read_all(root: Path) -> tuple[ShardIndex, dict[str, Sample]]:
    ref = ShardRef(str(root), "folder")
    index = index_shard(ref, FOLDER, 3)
    counts = [min(3, index.count - start) for start in index.starts]
    units = zip(index.starts, counts, strict=True)
    samples = [sample for start, count in units for sample in read_unit(ref, FOLDER, start, count, 2**20)]
    assert [sample.key for sample in samples] == list(list_keys(ref, FOLDER))
    return index, {sample.key: sample for sample in samples}


def test_links_that_are_not_followed_are_failures(tmp_path: Path) -> None:
    root, away = tmp_path / "root", put(tmp_path / "away" / "x.jpg", photo(9))
    put(root / "tench" / "a.jpg", photo(1))
    put(root / "tench" / ".cache" / "blob", photo(2))
    tench = root / "tench"
    (tench / "inner.jpg").symlink_to(".cache/blob")
    (tench / "out.jpg").symlink_to(away)
    (tench / "none.PNG").symlink_to("/nowhere.png")
    (tench / "loop.jpg").symlink_to("loop.jpg")
    (tench / "up").symlink_to("..")
    (root / "goldfish").symlink_to(away.parent)
    # These stand for no image.
    (tench / ".hidden.jpg").symlink_to(away)
    (tench / "notes.txt").symlink_to("/nowhere.txt")
    (tench / "words").symlink_to(put(tmp_path / "words", b"x"))
    os.mkfifo(tench / "pipe.jpg")
    index, samples = read_all(root)
    assert index.problem is None
    assert {key: sample.image for key, sample in samples.items() if sample.error is None} == {
        "tench/a.jpg": photo(1),
        "tench/inner.jpg": photo(2),
    }
    failed = {key: sample.error or "" for key, sample in samples.items() if sample.error}
    assert failed.keys() == {"tench/out.jpg", "tench/none.PNG", "tench/loop.jpg", "tench/up", "goldfish"}
    assert all("give the real folder, or copy" in error for error in failed.values())


NAMES = st.lists(st.sampled_from(["a", "b.d", "c.jpg", ".h", "x.PNG", "n.txt"]), min_size=1, max_size=3, unique=True)
KINDS = st.sampled_from(["file", "in", "out", "folder", "nothing", "pipe"])


@settings(max_examples=100, deadline=None)
@given(entries=st.dictionaries(NAMES.map(tuple), KINDS, max_size=6))
def test_every_image_and_every_link_to_a_folder_is_one_sample(entries: dict[tuple[str, ...], str]) -> None:
    with TemporaryDirectory() as place:
        root = Path(place) / "root"
        put(root / ".within", photo(1))
        targets = {"in": root / ".within", "out": put(Path(place) / "out", photo(2)), "folder": root}
        expected = {}
        for parts, kind in entries.items():
            path = root.joinpath(*parts)
            # What would need a folder where a file is, or is below a link, is left out.
            if os.path.lexists(path) or any(
                part.is_symlink() or (part.exists() and not part.is_dir()) for part in path.parents
            ):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                path.write_bytes(photo(3))
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to(targets.get(kind, "/nowhere"))
            is_image = kind not in ("pipe", "folder") and path.suffix.lower() in (".jpg", ".png")
            if (is_image or kind == "folder") and not any(part.startswith(".") for part in parts):
                expected["/".join(parts)] = {"file": photo(3), "in": photo(1)}.get(kind)
        _, samples = read_all(root)
        assert {key: sample.image for key, sample in samples.items()} == expected


def test_the_fingerprint_tells_a_link_from_a_file_and_stays_without_links(tmp_path: Path) -> None:
    """The number is of the version before links were counted: exports know their folders by it."""
    root = tmp_path / "root"
    put(root / "a" / "1.jpg", b"123")
    put(root / "b" / "2.png", b"4567")
    before, _ = read_all(root)
    assert before.fingerprint == "e9dba365acad80a7e3108d8a4ca920b2227bb59a8080aeda687012530ae48671"
    (root / "b" / "3.png").symlink_to("/nowhere")
    linked, _ = read_all(root)
    (root / "b" / "3.png").unlink()
    put(root / "b" / "3.png", b"")
    filled, _ = read_all(root)
    assert len({before.fingerprint, linked.fingerprint, filled.fingerprint}) == 3


def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    put(root / "a" / "1.jpg", photo(1))
    put(root / "b" / "2.jpg", photo(2))
    scan = os.scandir

    def forbidden(path: Any) -> Any:
        if str(path).endswith(("/b", "/locked")):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    _, samples = read_all(root)
    assert samples["a/1.jpg"].image == photo(1)
    assert "the folder cannot be listed: PermissionError" in (samples["b"].error or "")
    (tmp_path / "locked").mkdir()
    index = index_shard(ShardRef(str(tmp_path / "locked"), "folder"), FOLDER, 3)
    assert (index.count, "Permission denied" in (index.problem or "")) == (0, True)
