"""Packing on real Ray: whole, resumed, refused, byte for byte the same, and explained afterwards."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.datasets.pack import Packing, pack
from finer_ray.errors import ConfigError, ExportError, InputError
from finer_ray.images.sample import Sample
from finer_ray.pipeline.export import export
from finer_ray.shards import fields_of, find_shards, index_shard, read_unit
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import photo
from tests.datasets import trees
from tests.datasets.trees import put
from tests.jobs import run

pytestmark = pytest.mark.usefixtures("ray_cluster")
JOB = Path(__file__).parents[2] / "jobs" / "pack_shards.py"


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    return Packing("cub", str(trees.cub(tmp_path / "in")), str(tmp_path / "out"), rows_per_shard=2)


def contents(folder: str) -> dict[str, str]:
    """Digests of all files of a folder."""
    root = Path(folder)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def alone() -> dict[str, str]:
    """An environment in which a process starts a cluster of its own."""
    return {name: text for name, text in os.environ.items() if name != "RAY_ADDRESS"}


def samples(pattern: str) -> list[Sample]:
    """All samples of shards, by the readers' default fields."""
    found: list[Sample] = []
    for ref in find_shards([pattern]):
        fields = fields_of(ref.format)
        index = index_shard(ref, fields, 1000)
        found += read_unit(ref, fields, index.starts[0], index.count, 2**28)
    return found


@pytest.mark.parametrize("form", [pytest.param("webdataset", marks=pytest.mark.slow), "parquet"])
def test_shards_by_split_with_what_goes_along(packing: Packing, form: str) -> None:
    packed = pack(replace(packing, form=form))
    suffix = {"webdataset": "tar", "parquet": "parquet"}[form]
    names = [f"{split}-{number:06d}.{suffix}" for split in ("train", "test") for number in (0, 1)]
    assert [shard.name for shard in packed.shards] == names
    made = samples(f"{packing.to}/train-*")
    assert [sample.label for sample in made] == [0, 1, 2]
    assert {sample.image for sample in made} == {photo(i, trees.SIZE) for i in (1, 3, 5)}
    assert [sample.label for sample in samples(f"{packing.to}/test-*")] == [0, 1, 2]
    out = Path(packing.to)
    assert (out / "classes.txt").read_text().splitlines() == trees.CUB_NAMES
    assert json.loads((out / "attributes.json").read_text())["Laysan Albatross"]["curved bill"] == 0.2
    assert (out / "findings.txt").read_text() == ""
    whole = json.loads((out / "pack.json").read_text())
    assert whole["status"] == "complete"
    for shard in whole["shards"]:
        assert shard["sha256"] == hashlib.sha256((out / shard["name"]).read_bytes()).hexdigest()
    lines = list(packed.lines())
    assert lines[0] == "train: 3 images in 2 shards, 3 with a box, 3 with a mask"
    assert lines[1] == "test: 3 images in 2 shards, 3 with a box, 3 with a mask"
    assert lines[2].startswith("3 classes; 4 of 4 shards written now")


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_the_same_again_byte_for_byte(packing: Packing, form: str, tmp_path: Path) -> None:
    pack(replace(packing, form=form))
    first = contents(packing.to)
    assert pack(replace(packing, form=form)).new == 0
    assert contents(packing.to) == first
    # A set put elsewhere, its files written at another time.
    trees.cub(tmp_path / "moved" / "again")
    pack(replace(packing, form=form, source=str(tmp_path / "moved/again"), to=str(tmp_path / "other")))
    assert contents(str(tmp_path / "other")) == first


def test_goes_on_after_a_lost_and_a_damaged_shard(packing: Packing) -> None:
    pack(packing)
    first = contents(packing.to)
    out = Path(packing.to)
    (out / "train-000001.tar").unlink()
    (out / "test-000000.tar").write_bytes(b"short")
    (out / "done/test-000001.tar.json").write_text("{")
    put(out / "train-000001.tar.0123abcd.tmp", b"half a shard")
    assert pack(packing).new == 3
    assert contents(packing.to) == first


@pytest.mark.faults
def test_killed_at_any_time_and_run_again(packing: Packing, tmp_path: Path) -> None:
    for image in range(7, 200):
        put(tmp_path / f"in/CUB_200_2011/images/{trees.CUB_CLASSES[0]}/{image}.jpg", photo(image % 5, (300, 200)))
    base = tmp_path / "in/CUB_200_2011"
    with (base / "images.txt").open("a") as images, (base / "image_class_labels.txt").open("a") as labels:
        for image in range(7, 200):
            images.write(f"{image} {trees.CUB_CLASSES[0]}/{image}.jpg\n")
            labels.write(f"{image} 1\n")
    code = f"from finer_ray.datasets.pack import *; pack({packing!r})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, env=alone())
    deadline = time.monotonic() + 300
    while not list(Path(packing.to).glob("done/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((Path(packing.to) / "pack.json").read_text())["status"] == "running"
    packed = pack(packing)
    assert 0 < packed.new < len(packed.shards)
    pack(replace(packing, to=str(tmp_path / "straight")))
    assert contents(packing.to) == contents(str(tmp_path / "straight"))


def test_other_options_and_foreign_shards_are_refused(packing: Packing, tmp_path: Path) -> None:
    pack(packing)
    first = contents(packing.to)
    for other in (replace(packing, rows_per_shard=3), replace(packing, form="parquet"), replace(packing, split="test")):
        with pytest.raises(ConfigError, match=r"was packed with .* choose another folder"):
            pack(other)
    assert contents(packing.to) == first
    put(tmp_path / "foreign/train-000000.tar", b"mine")
    with pytest.raises(ConfigError, match=r"holds train-000000\.tar, but no pack\.json"):
        pack(replace(packing, to=str(tmp_path / "foreign")))
    assert contents(str(tmp_path / "foreign")) == {"train-000000.tar": hashlib.sha256(b"mine").hexdigest()}
    for name in ("classes.txt", "findings.txt", "attributes.json"):
        put(tmp_path / name / name, b"mine")
        with pytest.raises(ConfigError, match=rf"holds {name}, but no pack\.json"):
            pack(replace(packing, to=str(tmp_path / name)))
        assert contents(str(tmp_path / name)) == {name: hashlib.sha256(b"mine").hexdigest()}
    with pytest.raises(ConfigError, match="lies in the source's folder"):
        pack(replace(packing, to=f"{packing.source}/out"))
    with pytest.raises(ConfigError, match="--split: 'val' is none of all, train, test"):
        pack(replace(packing, to=str(tmp_path / "x"), split="val"))
    with pytest.raises(ConfigError, match="--as: 'zip' is none of webdataset, parquet"):
        pack(replace(packing, form="zip"))
    assert not (tmp_path / "x").exists()


def test_only_our_own_drafts_are_removed(packing: Packing) -> None:
    pack(packing)
    mine = ["train-000000.tar.bak.tmp", "holiday.tar.0a1b2c3d.tmp", "notes.tmp"]
    for name in (*mine, "train-000000.tar.0a1b2c3d.tmp"):
        put(Path(packing.to) / name, b"mine")
    pack(packing)
    assert sorted(path.name for path in Path(packing.to).glob("*.tmp")) == sorted(mine)


def test_a_set_that_changed_is_packed_anew_where_it_did(packing: Packing, tmp_path: Path) -> None:
    pack(packing)
    base = Path(packing.source) / "CUB_200_2011"
    missing = base / "images" / trees.cub_path(5)
    body = missing.read_bytes()
    missing.unlink()
    packed = pack(packing)
    assert packed.new == 0
    assert [shard.name for shard in packed.shards] == ["train-000000.tar", "test-000000.tar", "test-000001.tar"]
    assert not (Path(packing.to) / "train-000001.tar").exists()
    assert [finding.kind for finding in packed.findings] == ["missing"]
    assert (Path(packing.to) / "findings.txt").read_text().startswith("missing: CUB_200_2011/images/003.Sooty")
    put(missing, body)
    assert pack(packing).new == 1
    put(Path(packing.source) / "segmentations" / trees.cub_path(1).replace(".jpg", ".png"), trees.png([[1]]))
    assert pack(packing).new == 1
    put(base / "bounding_boxes.txt", "1 0 0 9 9\n")
    assert pack(packing).new == 4
    assert samples(f"{packing.to}/train-000000.tar")[0].box == (0, 0, 9, 9)


def test_images_that_cannot_be_read_are_findings(packing: Packing) -> None:
    base = Path(packing.source) / "CUB_200_2011"
    put(base / "images" / trees.cub_path(1), b"no image")
    put(base / "images" / trees.cub_path(4), photo(4, trees.SIZE)[:500])
    put(base / "images/surplus.jpg", photo(1))
    packed = pack(packing)
    assert sum(shard.images for shard in packed.shards) == 4
    lines = "\n".join(packed.lines())
    assert "2 unreadable:" in lines
    assert "1 surplus:\n  surplus: CUB_200_2011/images/surplus.jpg: no annotation file names it" in lines
    assert packed.findings == pack(packing).findings


def test_a_shard_that_cannot_be_written_stops_with_its_name(packing: Packing) -> None:
    pack(packing)
    place = Path(packing.to) / "train-000001.tar"
    place.unlink()
    put(place / "in the way", b"x")
    with pytest.raises(ExportError, match=r"train-000001\.tar cannot be written: IsADirectoryError.*run again"):
        pack(packing)
    (place / "in the way").unlink()
    place.rmdir()
    assert pack(packing).new == 1
    assert not list(Path(packing.to).glob("*.tmp"))


def test_a_set_without_any_image(packing: Packing) -> None:
    for image in range(1, 7):
        (Path(packing.source) / "CUB_200_2011/images" / trees.cub_path(image)).unlink()
    with pytest.raises(InputError, match="none of the images that cub lists"):
        pack(packing)


def test_remote_folders(packing: Packing) -> None:
    # Ray's workers do not share this process's memory, so the shards go through the same code here.
    from finer_ray.datasets.catalogue import choose, list_dataset
    from finer_ray.datasets.pack import Plan, write_shard

    records = list_dataset("cub", packing.source, choose("cub")).records
    shard = write_shard(replace(packing, to="memory://bucket/cub"), Plan("a.tar", "train", tuple(records)))
    body = fsspec.filesystem("memory").cat_file("/bucket/cub/a.tar")
    assert hashlib.sha256(body).hexdigest() == shard.sha256
    assert len(samples("memory://bucket/cub/a.tar")) == 6


@pytest.mark.slow
def test_the_command_and_the_job(packing: Packing, tmp_path: Path) -> None:
    options = ["--format", "cub", "--source", packing.source, "--rows-per-shard", "2"]
    result = CliRunner().invoke(app, ["pack", *options, "--to", packing.to, "--split", "test"])
    assert result.exit_code == 0, result.output
    assert "test: 3 images in 2 shards" in result.output
    arguments = [*options, "--to", str(tmp_path / "job"), "--split", "test"]
    done = run(JOB, *arguments)
    assert done.returncode == 0, done.stderr
    assert "test: 3 images in 2 shards" in done.stdout
    assert contents(packing.to) == contents(str(tmp_path / "job"))
    # And once as a process of its own.
    command = [sys.executable, str(JOB), *arguments, "--label", "families"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "error: --label: 'families' is none of species" in failed.stderr


def test_packed_shards_are_explained(packing: Packing, job: Callable[..., Config], tmp_path: Path) -> None:
    pack(packing)
    weight = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight}, tmp_path / "probe.safetensors")
    model = {"classes": f"{packing.to}/classes.txt", "head": str(tmp_path / "probe.safetensors")}
    config = job(f"{packing.to}/*.tar", model=model, output={"url": str(tmp_path / "export")})
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    assert made.failures.num_rows == 0
    assert sorted(made.images["label"].to_pylist()) == [0, 0, 1, 1, 2, 2]
    assert made.metrics["localisation"].null_count == 0
    assert made.images["predicted"].to_pylist() != made.images["label"].to_pylist()
    assert set(made.classes["name"].to_pylist()) == set(trees.CUB_NAMES)
    hits = [line["label"] == line["predicted"] for line in made.images.to_pylist()]
    weighed = {line["name"]: line["accuracy"] * line["count"] for line in made.classes.to_pylist()}
    assert sum(weighed.values()) == pytest.approx(sum(hits))
