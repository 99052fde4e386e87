"""Increments: exports that grow, shards that change or vanish, readers that go on reading, crashes between."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import ExportError, LeaseError
from finer_ray.models import build_classifier
from finer_ray.pipeline import planning
from finer_ray.pipeline.export import export
from finer_ray.shards import Fields
from finer_ray.shards.parquet import FIRST_KEY
from finer_ray.store import tensors
from finer_ray.store.lease import acquire
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from finer_ray.store.similarity import similarity_table
from finer_ray.store.storage import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import photo, write_tar
from tests.pipeline.exports import by_key, files_of, many, same

Job = Callable[..., Config]
# All steps take minutes; five of each stage are enough to tell that something broke.
EVERY_STEP = bool(os.environ.get("FINER_RAY_EVERY_STEP"))
REPLACE = {"on_changed": "replace"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    write_tar(folder / "a.tar", many(10))
    write_tar(folder / "b.tar", many(9, 20))
    write_tar(folder / "c.tar", [*many(3, 40), ("bad.jpg", b"no photo")])
    return folder


def change(shards: Path) -> None:
    """One shard changes, one vanishes, one is new."""
    write_tar(shards / "a.tar", many(12, 100))
    (shards / "b.tar").unlink()
    write_tar(shards / "d.tar", many(5, 60))


def test_changed_and_vanished_shards_are_refused_by_default(shards: Path, job: Job) -> None:
    config = job(str(shards / "*.tar"))
    export(config)
    before = files_of(Path(config.output.url))
    change(shards)
    with pytest.raises(
        ExportError, match=r"1 changed: .*a\.tar \(10 images then, 12 now\); 1 vanished: .*b\.tar.*on_changed"
    ):
        export(config)
    assert files_of(Path(config.output.url)) == before


def test_replaced_shards_are_as_in_a_new_export(tmp_path: Path, shards: Path, job: Job) -> None:
    config = job(str(shards / "*.tar"), input=REPLACE)
    export(config)
    old = open_export(config.output.url)
    held = by_key(old)
    change(shards)
    summary = export(config)

    assert summary.new == 17
    assert [note.split(":")[0] for note in summary.notes] == [
        "1 shards changed since their export; their rows are made anew",
        "1 shards vanished since their export; their rows are taken out",
    ]
    assert verify_export(config.output.url) == []
    fresh = job(str(shards / "*.tar"), output={"url": str(tmp_path / "fresh")})
    export(fresh)
    made = open_export(config.output.url)
    assert by_key(made) == by_key(open_export(fresh.output.url))
    assert made.manifest.counts == {"images": 20, "failures": 1}
    assert made.classes.equals(open_export(fresh.output.url).classes)
    assert pq.read_table(Path(config.output.url) / "classes.parquet").equals(made.classes)
    # The files as they lie there say the same as the manifest.
    for name in ("images", "metrics", "failures"):
        assert pq.read_table(Path(config.output.url) / name).num_rows == getattr(made, name).num_rows

    # A reader from before: what it has read, what it has yet to read, and what it opens anew from its manifest.
    assert by_key(old) == held
    again = Export(Folder(config.output.url), old.manifest)
    assert by_key(again) == held
    assert again.classes.num_rows
    assert again.failures["key"].to_pylist() == ["bad"]

    # One publication later the old tensors are gone, and rows are not used twice.
    write_tar(shards / "e.tar", many(2, 80))
    export(config)
    assert verify_export(config.output.url) == []
    after = open_export(config.output.url)
    retired = [span for span in after.manifest.retired if span.erased]
    assert len(retired) == 2
    for span in retired:
        units = range(span.first_unit, span.first_unit + span.units)
        rows = range(units.start * 8, units.stop * 8)
        assert np.isnan(after.tensors["maps"][rows.start : rows.stop]).all()
        objects = Path(config.output.url) / "saliency.zarr" / "maps" / "c"
        assert not [unit for unit in units if [path for path in (objects / str(unit)).rglob("*") if path.is_file()]]
        assert not set(rows) & set(after.images["row"].to_pylist())
    assert export(config).new == 0


def test_kept_shards_stay_as_they_were(shards: Path, job: Job) -> None:
    config = job(str(shards / "*.tar"), input={"on_changed": "keep"})
    export(config)
    held = by_key(open_export(config.output.url))
    change(shards)
    os.utime(shards / "c.tar", (0, 0))  # Touched, and the same.
    summary = export(config)
    assert summary.new == 5
    units = [unit.number for unit in open_export(config.output.url).manifest.units()]
    assert len(set(units)) == len(units)
    assert all("rows are kept" in note for note in summary.notes)
    assert len(summary.notes) == 2
    found = by_key(open_export(config.output.url))
    assert {key: found[key] for key in held} == held
    assert len(found) == len(held) + 5
    assert verify_export(config.output.url, keys=False) == []


def test_similarity_is_the_classifier_s_and_written_once(shards: Path, job: Job) -> None:
    config = job(str(shards / "a.tar"))
    export(config)
    file = Path(config.output.url) / "similarity.parquet"
    weight = build_classifier(config.model).class_weights()
    assert pq.read_table(file).equals(similarity_table(weight))
    held = file.stat()
    old = open_export(config.output.url)
    export(job(str(shards / "*.tar"), input=REPLACE))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (held.st_ino, held.st_mtime_ns)
    for made in (old, open_export(config.output.url)):
        assert made.similarity.num_rows == len(weight) - 1


def test_without_a_classifier_there_is_no_similarity(shards: Path, job: Job) -> None:
    config = job(str(shards / "a.tar"), model={"head": "none", "classes": [*"abcdefg"]})
    export(config)
    assert not (Path(config.output.url) / "similarity.parquet").exists()
    assert open_export(config.output.url).similarity.num_rows == 0


def test_shards_that_are_only_not_named_stay(tmp_path: Path, shards: Path, job: Job) -> None:
    """A job of one day does not know of the day before."""
    export(job(str(shards / "a.tar"), input=REPLACE))
    summary = export(job(str(shards / "b.tar"), input=REPLACE))
    assert summary.notes == []
    assert (summary.images, summary.new) == (19, 9)
    assert verify_export(str(tmp_path / "out")) == []


def test_a_shard_that_cannot_be_read_any_more_does_not_cost_its_rows(shards: Path, job: Job) -> None:
    config = job(str(shards / "*.tar"), input=REPLACE)
    export(config)
    held = by_key(open_export(config.output.url))
    (shards / "a.tar").unlink()
    (shards / "a.tar").symlink_to(shards / "a.tar")
    with pytest.raises(ExportError, match=r"a\.tar is in the export, and cannot be read now"):
        export(config)
    assert by_key(open_export(config.output.url)) == held


class Dead(BaseException):
    """The process is no more."""


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, after: Callable[[int], None]) -> Iterator[None]:
    """Call something after each step that changes the store, with its number."""
    steps = 0

    def wrap(owner: Any, name: str) -> None:
        done = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            after(steps)
            result = done(*args, **kwargs)
            steps += 1
            after(steps)
            return result

        patch.setattr(owner, name, step)

    with monkeypatch.context() as patch:
        for name in ("write", "create", "move", "remove"):
            wrap(Folder, name)
        wrap(tensors, "_write")
        wrap(tensors, "_create")
        yield


def test_readers_never_see_a_half_published_state(shards: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(str(shards / "*.tar"), input=REPLACE)
    export(config)
    old = open_export(config.output.url)
    held = by_key(old)
    change(shards)
    seen = set()

    def inspect_data(_: int) -> None:
        now = open_export(config.output.url)
        seen.add(now.manifest.revision)
        assert now.images.num_rows == now.manifest.counts["images"]
        assert now.failures.num_rows == now.manifest.counts["failures"]
        assert verify_export(config.output.url, keys=False) == []
        assert by_key(Export(Folder(config.output.url), old.manifest)) == held

    with watched(monkeypatch, inspect_data):
        export(config)
    inspect_data(0)
    assert seen == {0, 1}


def test_a_crash_after_any_step_costs_nothing(
    tmp_path: Path, shards: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every single moment between two changes of the store, of a first run and of one that replaces."""
    shutil.copytree(shards, tmp_path / "first")
    config = job(str(shards / "*.tar"), input=REPLACE)
    undisturbed = job(str(shards / "*.tar"), input=REPLACE, output={"url": str(tmp_path / "undisturbed")})
    out, clean = Path(config.output.url), Path(undisturbed.output.url)
    for stage in ("first", "changed"):
        if stage == "changed":
            change(shards)
        before = tmp_path / f"before-{stage}"
        if clean.exists():
            shutil.copytree(clean, before)
        count = 0

        def number(step: int) -> None:
            nonlocal count
            count = step

        with watched(monkeypatch, number):
            export(undisturbed)
        assert count > 20
        wanted = open_export(undisturbed.output.url)
        for step in range(count) if EVERY_STEP else sorted(random.Random(stage).sample(range(count), 5)):
            shutil.rmtree(out, ignore_errors=True)
            if before.exists():
                shutil.copytree(before, out)

            def die(here: int, at: int = step) -> None:
                if here >= at:
                    raise Dead

            with pytest.raises(Dead), watched(monkeypatch, die):
                export(config)
            bury(out)
            export(config)
            assert verify_export(config.output.url) == []
            same(open_export(config.output.url), wanted)
            assert not (out / "plan.json").exists()
            assert not (out / "parts").exists()


def bury(out: Path) -> None:
    """Let the dead run's lease be that of a process that is gone: here it was this process."""
    for file in (out / "lease").glob("*.json") if (out / "lease").exists() else ():
        file.write_text(json.dumps({**json.loads(file.read_text()), "pid": 2**22 + 1}))


def test_a_second_run_on_the_same_output_is_refused(shards: Path, job: Job) -> None:
    config = job(str(shards / "*.tar"))
    with acquire(Folder(config.output.url), 60), pytest.raises(LeaseError):
        export(config)
    export(config)
    assert verify_export(config.output.url) == []


def test_a_run_that_was_held_up_publishes_nothing(shards: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease expired while it stood still, and another run has begun."""
    config = job(str(shards / "*.tar"))
    folder, others = Folder(config.output.url), []

    def overtake(step: int) -> None:
        if step == 15 and not others:
            others.append(True)
            (name,) = folder.names("lease", ".json")
            tree = json.loads((Path(folder.url) / "lease" / name).read_text())
            (Path(folder.url) / "lease" / name).write_text(json.dumps({**tree, "expires": time.time() - 1}))
            (Path(folder.url) / "lease" / "00000002.json").write_text(json.dumps({**tree, "owner": "another"}))

    with pytest.raises(LeaseError, match="has taken over"), watched(monkeypatch, overtake):
        export(config)
    with pytest.raises(ExportError, match="has not finished"):
        open_export(config.output.url)


def test_status_says_where_an_export_stands(shards: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(str(shards / "*.tar"))
    url = config.output.url

    def status() -> tuple[int, str]:
        result = CliRunner().invoke(app, ["status", url])
        return result.exit_code, result.output

    assert status() == (12, "none: there is no export\n")
    said = []

    def inspect_data(_: int) -> None:
        said.append(status())

    with watched(monkeypatch, inspect_data):
        export(config)
    assert said[1][0] == 10
    assert said[1][1].startswith("planning\n")
    running = [text for code, text in said if code == 10 and text.startswith("running: 18 of 23 images")]
    assert running
    assert "at work" in running[0]
    assert status()[0] == 0
    assert "complete: 23 of 23 images (100%, 1 failures), units 5 of 5" in status()[1]
    assert "readers see 22 images and 1 failures" in status()[1]

    write_tar(shards / "z.tar", many(20, 200))

    def die(step: int) -> None:
        if step >= 12:
            raise Dead

    with pytest.raises(Dead), watched(monkeypatch, die):
        export(config)
    bury(Path(url))
    code, text = status()
    assert code == 11
    assert "stopped: " in text
    assert "ended without a word" in text
    assert "readers see 22 images" in text
    result = CliRunner().invoke(app, ["status", url, "--json"])
    assert json.loads(result.output)["state"] == "stopped"


def test_exports_without_later_columns_of_images_are_read_and_grow(shards: Path, job: Job) -> None:
    """As an earlier version wrote them, published and committed alike: their lines have no view and no input size."""
    (shards / "c.tar").rename(shards.parent / "c.tar")
    config = job(str(shards / "*.tar"), model={"crop_pct": 1.0})
    export(config)
    whole = open_export(config.output.url).images
    added = ["input_width", "input_height", "view"]
    assert whole["view"].to_pylist()[0] == [8.0, 0.0, 72.0, 64.0]
    assert set(whole["input_width"].to_pylist()) == {64}
    for file in open_export(config.output.url).manifest.tables["images"]:
        path = Path(config.output.url) / file
        pq.write_table(pq.read_table(path).drop_columns(added), path)
    old = open_export(config.output.url)
    assert old.images.drop_columns(added).equals(whole.drop_columns(added))
    assert all(old.images[name].null_count == 19 for name in added)
    with connect(old) as connection:
        assert connection.sql("SELECT count(*), count(input_width), count(view) FROM images").fetchall() == [(19, 0, 0)]
    (shards.parent / "c.tar").rename(shards / "c.tar")
    export(config)
    grown = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    assert grown.images["input_width"].to_pylist() == [None] * 19 + [64] * 3
    with connect(grown) as connection:
        assert connection.sql("SELECT count(*), count(input_width), max(view[3]) FROM images").fetchall() == [
            (22, 3, 72)
        ]


def test_an_earlier_versions_export_keeps_its_keys(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def shard(name: str, first: int) -> None:
        images, names = [photo(first + i) for i in range(3)], [f"u{first + i}" for i in range(3)]
        pq.write_table(pa.table({"image": images, "uuid": names}), tmp_path / "in" / name)

    (tmp_path / "in").mkdir()
    shard("a.parquet", 0)
    config = job(str(tmp_path / "in"))
    with monkeypatch.context() as then:
        then.setattr(planning, "FIELDS", Fields(key=FIRST_KEY))
        export(config)
    manifest = tmp_path / "out" / "export.json"
    tree = json.loads(manifest.read_text())
    assert tree.pop("usual_key") == FIRST_KEY
    manifest.write_text(json.dumps(tree))
    assert verify_export(config.output.url) == []

    shard("b.parquet", 3)
    os.utime(tmp_path / "in" / "a.parquet", (1, 1))
    assert export(config).new == 3
    made = open_export(config.output.url)
    assert made.images["key"].to_pylist() == ["0", "1", "2"] * 2
    assert verify_export(config.output.url) == []
    # A new one has the names that are there.
    other = job(str(tmp_path / "in"), output={"url": str(tmp_path / "new")})
    assert other.fingerprint() == config.fingerprint()
    export(other)
    assert open_export(other.output.url).images["key"].to_pylist() == [f"u{i}" for i in range(6)]
    assert verify_export(other.output.url) == []
