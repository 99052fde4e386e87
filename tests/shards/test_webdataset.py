"""Samples of archives: members are never missed, whatever their names, links and places are."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finer_ray.images.sample import Sample
from finer_ray.shards import Fields, ShardRef, fields_of, index_shard, list_keys, read_unit
from finer_ray.shards.webdataset import MAX_LINKS
from tests.conftest import photo, write_tar

WDS = fields_of("webdataset")
SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
TMP = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def member(
    name: str, body: bytes = b"", link: str = "", kind: bytes = tarfile.REGTYPE
) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a tar; one with a link is a hard link unless told otherwise."""
    info = tarfile.TarInfo(name)
    info.size, info.linkname, info.type = len(body), link, tarfile.LNKTYPE if link and kind == tarfile.REGTYPE else kind
    return info, body


def symlink(name: str, link: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, link=link, kind=tarfile.SYMTYPE)


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> ShardRef:
    with tarfile.open(path, "w") as tar:
        for info, body in members:
            tar.addfile(info, io.BytesIO(body))
    return ShardRef(str(path), "webdataset")


def read_all(ref: ShardRef, fields: Fields = WDS, unit: int = 2) -> list[Sample]:
    """All samples, unit by unit; as many as counted, with the keys listed."""
    index = index_shard(ref, fields, unit)
    counts = [min(unit, index.count - number * unit) for number in range(len(index.starts))]
    samples = [
        sample
        for start, count in zip(index.starts, counts, strict=True)
        for sample in read_unit(ref, fields, start, count, 2**20)
    ]
    assert [sample.key for sample in samples] == list(list_keys(ref, fields))
    return samples


def test_names_with_dots_are_failures_that_say_how_keys_end(tmp_path: Path) -> None:
    names = ["IMG_1.final.jpg", "22.05.JPG", "Track 2.0 (Clean).png", "a..webp", "dir.v2/ok.jpg"]
    ref = ShardRef(str(write_tar(tmp_path / "a.tar", [(name, photo(1)) for name in names])), "webdataset")
    *failed, good = read_all(ref)
    assert [sample.key for sample in failed] == ["IMG_1", "22", "Track 2", "a"]
    for sample, ext in zip(failed, (".final.jpg", ".05.jpg", ".0 (clean).png", "..webp"), strict=True):
        assert sample.error is not None
        assert f"this one's extension is {ext!r}:" in sample.error
        assert "dots to underscores" in sample.error
        assert "input.fields.image" in sample.error
    assert (good.key, good.image) == ("dir.v2/ok", photo(1))
    named = fields_of("webdataset", {"image": "jpg;final.jpg"})
    assert next(sample for sample in read_all(ref, named) if sample.key == "IMG_1").image == photo(1)


def test_an_image_with_a_further_one_beside_it_is_read(tmp_path: Path) -> None:
    """`x.depth.png` beside `x.jpg` is what WebDataset's keys are for."""
    members = [("x.jpg", photo(1)), ("x.depth.png", b"depth"), ("y.depth.png", b"depth"), ("z.txt", b"no image")]
    x, y = read_all(ShardRef(str(write_tar(tmp_path / "a.tar", members)), "webdataset"))
    assert (x.key, x.image, x.error) == ("x", photo(1), None)
    assert y.key == "y"
    assert "this one's extension is '.depth.png'" in (y.error or "")


def test_links_are_their_members_contents(tmp_path: Path) -> None:
    ref = tar_of(
        tmp_path / "a.tar",
        member("blobs/01", photo(1)),
        member("a/first.jpg", photo(2)),
        member("a/first.cls", b"7"),
        member("a/hard.cls", link="./a/first.cls"),
        member("a/hard.jpg", link="a/first.jpg"),
        symlink("a/down.jpg", "../blobs/./01"),
        symlink("a/chain.jpg", "hard.jpg"),
        symlink("a/early.jpg", "later.jpg"),
        member("a/later.jpg", photo(3)),
    )
    for unit in (1, 2, 100):
        found = {sample.key: sample for sample in read_all(ref, unit=unit)}
        assert {key: sample.image for key, sample in found.items()} == {
            "a/first": photo(2),
            "a/hard": photo(2),
            "a/down": photo(1),
            "a/chain": photo(2),
            "a/early": photo(3),
            "a/later": photo(3),
        }
        assert (found["a/first"].label, found["a/hard"].label) == (7, 7)


def test_of_two_members_with_one_name_a_hard_link_means_the_one_before_it(tmp_path: Path) -> None:
    ref = tar_of(
        tmp_path / "a.tar",
        member("x.jpg", photo(1)),
        member("hard.jpg", link="x.jpg"),
        symlink("soft.jpg", "x.jpg"),
        member("x.jpg", photo(2)),
        member("y.jpg", photo(3)),
        # GNU tar writes a file that is named twice as a hard link to itself.
        member("y.jpg.orig", b"y"),
        member("x.jpg", link="x.jpg"),
    )
    assert [(sample.key, sample.image) for sample in read_all(ref)] == [
        ("x", photo(1)), ("hard", photo(1)), ("soft", photo(2)), ("x", photo(2)), ("y", photo(3)), ("x", photo(2)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "target", ["none.jpg", "../../etc/passwd", "/etc/passwd", "folder", "pipe", "loop.jpg", "b.jpg", "x" * 5000]
)
@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_to_no_file_of_the_archive_is_a_failure(tmp_path: Path, target: str, kind: bytes) -> None:
    ref = tar_of(
        tmp_path / "a.tar",
        member("folder", kind=tarfile.DIRTYPE),
        member("pipe", kind=tarfile.FIFOTYPE),
        symlink("loop.jpg", "loop.jpg"),
        member("b.jpg", link=target, kind=kind),
        member("good.jpg", photo(1)),
    )
    loop, b, good = read_all(ref)
    assert (loop.error is None, b.image, good.image) == (False, None, photo(1))
    assert (b.error or "").startswith(f"member 'b.jpg' is a link to '{target[:100]}")
    assert "which is no file of this archive (pack with tar --" in (b.error or "")


def test_a_label_that_links_nowhere_fails_its_sample(tmp_path: Path) -> None:
    """An absent label would pass for none."""
    ref = tar_of(tmp_path / "a.tar", member("a.jpg", photo(1)), symlink("a.cls", "../labels/1"))
    (sample,) = read_all(ref)
    assert (sample.image, "'a.cls' is a link to '../labels/1'" in (sample.error or "")) == (None, True)


def test_chains_of_links_are_followed_so_far(tmp_path: Path) -> None:
    chain = [symlink(f"{number}.jpg", f"{number + 1}.jpg") for number in range(MAX_LINKS + 1)]
    ref = tar_of(tmp_path / "a.tar", *chain, member(f"{MAX_LINKS + 1}.jpg", photo(1)))
    samples = read_all(ref, unit=100)
    assert [sample.image is None for sample in samples] == [True] + [False] * (MAX_LINKS + 1)


def test_annotations_apart_from_their_image_are_failures_that_say_so(tmp_path: Path) -> None:
    images = [(f"{i}.jpg", photo(i)) for i in range(3)]
    labels = [(f"{i}.cls", b"1") for i in range(3)]
    ref = ShardRef(str(write_tar(tmp_path / "a.tar", [*images, *labels, ("lone.cls", b"1")])), "webdataset")
    samples = read_all(ref)
    assert [(sample.key, sample.image, sample.label) for sample in samples[:3]] == [
        (str(i), photo(i), None) for i in range(3)
    ]
    for i, sample in enumerate(samples[3:6]):
        assert sample.error == (
            f"the members of this key do not lie together: its image is sample {i} of the shard, and is read without "
            "cls; pack with tar --sort=name"
        )
    assert (samples[6].error or "").startswith("no image member: found cls; looked for bmp")
    first = ShardRef(str(write_tar(tmp_path / "b.tar", [*labels, *images])), "webdataset")
    errors = [sample.error or "" for sample in read_all(first)]
    assert [error.partition(": ")[2].partition(",")[0] for error in errors[:3]] == [
        f"its image is sample {3 + i} of the shard" for i in range(3)
    ]
    assert errors[3:] == [""] * 3


PARTS = st.sampled_from(["a", "b", "IMG_1", "v2.0", "x y", ".hid", "._b", "__MACOSX", "..", "\u00e9"])
ENDS = st.sampled_from([".jpg", ".JPEG", ".png", ".seg.png", ".cls", ".json", ".txt", "..gif", ".jpg.", ".bak", ""])
NAMES = st.tuples(st.lists(PARTS, min_size=1, max_size=3), ENDS).map(lambda parts: "/".join(parts[0]) + parts[1])
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])


def is_image(name: str, kind: bytes) -> bool:
    """Whether a person would say so: a file, or a link, that ends as images do, and is not hidden."""
    hidden = any(part.startswith(".") and part.strip(".") for part in name.split("/")) or name.endswith("/..")
    return (
        not hidden and kind in (tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE) and name.lower().endswith(SUFFIXES)
    )


def runs_of(names: Sequence[str]) -> list[str]:
    """Keys of the runs of these names, in order."""
    keys = []
    for name in names:
        folder, slash, base = name.rpartition("/")
        key = f"{folder}{slash}{base.partition('.')[0]}"
        keys += [key] if keys[-1:] != [key] else []
    return keys


@TMP
@given(entries=st.lists(st.tuples(NAMES, KINDS, NAMES), max_size=8))
def test_every_image_is_part_of_one_counted_sample(tmp_path: Path, entries: list[tuple[str, bytes, str]]) -> None:
    ref = tar_of(
        tmp_path / "a.tar",
        *(
            member(name, photo(1) if kind == tarfile.REGTYPE else b"", "" if kind == tarfile.REGTYPE else link, kind)
            for name, kind, link in entries
        ),
    )
    images = [name for name, kind, _ in entries if is_image(name, kind)]
    counted = [sample.key for sample in read_all(ref)]
    # Each run of images is counted, in this order; what else is counted are annotations.
    left = iter(counted)
    assert all(key in left for key in runs_of(images)), (images, counted)


def test_part_masks_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    """And only where there are some do they decide a sample's digest."""
    members = [("x.jpg", photo(1)), ("x.parts.png", b"ids"), ("y.jpg", photo(2))]
    ref = ShardRef(str(write_tar(tmp_path / "a.tar", members)), "webdataset")
    x, y = read_all(ref, fields_of("webdataset", {"parts": "regions.png;parts.png"}))
    assert (x.parts, x.mask, y.parts) == (b"ids", None, None)
    plain = read_all(ref)
    assert [sample.parts for sample in plain] == [None, None]
    assert y.digest() == plain[1].digest()
    assert x.digest() != plain[0].digest()
