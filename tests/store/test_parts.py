"""Parts and publication: only what the plan means is published, and nothing foreign is touched."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from finer_ray.errors import LeaseError, StoreError
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile
from finer_ray.store.parts import commit, committed_digests, publish
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tables import PARTS
from finer_ray.store.verify import verify_export


@pytest.fixture
def unpublished(demo_like: Path, tmp_path: Path) -> tuple[Folder, Manifest]:
    """An export whose units are committed and not published, and its plan."""
    made = open_export(str(demo_like / "demo_export"))
    folder = Folder(str(tmp_path / "out"))
    shutil.copytree(demo_like / "demo_export" / "saliency.zarr", tmp_path / "out" / "saliency.zarr")
    size = made.manifest.layout.rows_per_unit
    for unit in made.manifest.units():
        tables = {name: _of(getattr(made, name), unit.number, size) for name in PARTS}
        commit(folder, unit.number, tables, f"digest{unit.number}")
    fresh = {"status": "running", "tables": {}, "counts": {"images": 0, "failures": 0}, "base": -1, "obsolete": []}
    plan = made.manifest.model_copy(update=fresh)
    ManifestFile(folder, PLAN).write(plan)
    return folder, plan


def _of(table: pa.Table, unit: int, size: int) -> pa.Table:
    rows = table["row"].to_pylist()
    return table.filter(pa.array([row is not None and row // size == unit for row in rows]))


def go(folder: Folder, plan: Manifest) -> Manifest:
    units = [unit.number for unit in plan.units()]
    return publish(folder, units, ManifestFile(folder, PLAN), ManifestFile(folder, EXPORT))


def test_digests_travel_from_commits_into_the_manifest(unpublished: tuple[Folder, Manifest]) -> None:
    folder, plan = unpublished
    units = [unit.number for unit in plan.units()]
    assert committed_digests(folder, units) == {unit: f"digest{unit}" for unit in units}
    made = go(folder, plan)
    assert [digest for entry in made.shards for digest in entry.digests] == [f"digest{unit}" for unit in units]
    assert (made.base, made.obsolete) == (None, [])
    assert verify_export(folder.url, keys=False) == []


def test_a_commit_that_is_gone_or_another_s_is_not_published(unpublished: tuple[Folder, Manifest]) -> None:
    folder, plan = unpublished
    part = folder.read("parts/images/00000001.parquet") or b""
    other = folder.read("parts/images/00000000.parquet") or b""
    folder.write("parts/images/00000001.parquet", other)
    with pytest.raises(StoreError, match=r"parts/images/00000001\.parquet, the commit of .* holds other rows"):
        go(folder, plan)
    folder.remove("parts/images/00000001.parquet")
    with pytest.raises(StoreError, match=r"is not there any more; nothing is published"):
        go(folder, plan)
    assert folder.read(EXPORT) is None
    folder.write("parts/images/00000001.parquet", part)
    made = go(folder, plan)
    # What the failed attempts wrote is known from the plan, and is no longer among the tables' files.
    for name in PARTS:
        assert folder.names(name) == sorted(file.split("/")[1] for file in made.tables[name])
    assert verify_export(folder.url, keys=False) == []


def test_what_was_overtaken_publishes_nothing_and_leaves_nothing(unpublished: tuple[Folder, Manifest]) -> None:
    """The other publishes while this one's table files are being written."""
    folder, plan = unpublished
    units = [unit.number for unit in plan.units()]
    ours = ManifestFile(folder, PLAN), ManifestFile(folder, EXPORT)
    theirs: list[Manifest] = []

    def overtaken() -> None:
        theirs.append(go(folder, plan))

    with pytest.raises(LeaseError, match=r"another run has written .*export\.json"):
        publish(folder, units, *ours, confirm=overtaken)
    assert open_export(folder.url).manifest == theirs[0]
    for name in PARTS:
        assert folder.names(name) == sorted(file.split("/")[1] for file in theirs[0].tables[name])
    assert verify_export(folder.url, keys=False) == []
