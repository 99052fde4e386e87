"""The table of pairs as a job leaves it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.pairs import table
from finer_ray.pairs.table import NAME, pairs_table
from finer_ray.pipeline.export import export
from finer_ray.store import derived
from finer_ray.store.reading import Export, open_export
from finer_ray.store.tables import PAIRS
from finer_ray.store.verify import verify_export
from tests.conftest import write_tar
from tests.pipeline.exports import files_of, many

Job = Callable[..., Config]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    write_tar(tmp_path / "in" / "a.tar", many(9))
    return str(tmp_path / "in" / "*.tar")


def test_it_is_of_what_is_published_and_rewritten_only_then(tmp_path: Path, shards: str, job: Job) -> None:
    config = job(shards)
    assert export(config).notes == []
    file = Path(config.output.url) / "pairs.parquet"
    made = open_export(config.output.url)
    first = derived.read(made, NAME)
    assert sum(first["images"].to_pylist()) == 3 * 9
    assert first["cosine"].null_count == 0
    held = files_of(Path(config.output.url)), file.stat().st_mtime_ns
    # Touched shards change the manifest, but nothing that the table is computed from.
    (tmp_path / "in" / "a.tar").touch()
    assert export(config).new == 0
    after = files_of(Path(config.output.url))
    assert (after[file], file.stat().st_mtime_ns) == (held[0][file], held[1])

    write_tar(tmp_path / "in" / "b.tar", many(4, 50))
    assert export(config).new == 4
    grown = derived.read(open_export(config.output.url), NAME)
    assert sum(grown["images"].to_pylist()) == 3 * 13
    assert grown.drop_columns("cosine").equals(pairs_table(open_export(config.output.url)).drop_columns("cosine"))
    assert grown["cosine"].null_count == 0
    assert not derived.is_current(made, NAME)
    assert verify_export(config.output.url) == []


def test_the_choice_changes_nothing_else(shards: str, job: Job) -> None:
    without = job(shards, output={"pairs": False})
    assert without.fingerprint() == job(shards).fingerprint()
    export(without)
    out = Path(without.output.url)
    before = files_of(out)
    assert out / "pairs.parquet" not in before
    assert export(job(shards)).new == 0
    after = files_of(out)
    assert after.pop(out / "pairs.parquet")
    assert after == before


@pytest.mark.slow
def test_two_jobs_make_the_same_bytes(tmp_path: Path, shards: str, job: Job) -> None:
    files = []
    for name in ("one", "two"):
        export(job(shards, output={"url": str(tmp_path / name)}))
        files.append((tmp_path / name / "pairs.parquet").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "sections",
    [{"saliency": {"references": 0, "maps": ["gradcam"]}}, {"output": {"basis": False}}, {"model": {"head": "none"}}],
)
def test_no_job_fails_for_what_the_table_lacks(shards: str, job: Job, sections: dict[str, Any]) -> None:
    if "model" in sections:
        sections["model"]["classes"] = [*"abcdefg"]
    config = job(shards, **sections)
    assert export(config).notes == []
    found = derived.read(open_export(config.output.url), NAME)
    assert (
        len(found) == 0 if "saliency" in sections else found["cosine" if "model" in sections else "evidence"].null_count
    )


def test_a_table_that_cannot_be_made_is_a_note(shards: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(shards, output={"pairs": False})
    export(config)
    mine = Path(config.output.url) / "pairs.parquet"
    mine.write_bytes(b"mine")
    [note] = export(job(shards)).notes
    assert "pairs.parquet was not written by finer_ray, and is not overwritten" in note
    assert mine.read_bytes() == b"mine"
    mine.unlink()

    def broken(*_: Any) -> None:
        raise OSError("a disk is gone")

    monkeypatch.setattr(table, "pairs_table", broken)
    [note] = export(job(shards)).notes
    assert "output.pairs: the export is whole, but has no table of pairs yet: OSError: a disk is gone." in note
    assert verify_export(config.output.url) == []


def test_cosines_come_with_the_weights(shards: str, job: Job) -> None:
    config = job(shards, output={"pairs": False})
    export(config)
    made = open_export(config.output.url)
    derived.write(made, NAME, pairs_table(made))
    assert derived.read(made, NAME)["cosine"].null_count == len(derived.read(made, NAME))
    export(job(shards))
    assert derived.read(made, NAME)["cosine"].null_count == 0


def test_shards_are_not_looked_for_among_the_tables(shards: str, job: Job) -> None:
    config = job(shards)
    export(config)
    assert pq.read_metadata(Path(config.output.url) / "pairs.parquet").num_rows
    with pytest.raises(ConfigError, match="output"):
        export(job(f"{config.output.url}/pairs*.parquet"))


def test_a_run_that_has_lost_its_lease_leaves_the_table_to_the_other(
    shards: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(shards)

    def lost(made: Export, *_: Any) -> Any:
        for name in made.folder.names("lease", ".json"):
            made.folder.remove(f"lease/{name}")
        return PAIRS.empty_table()

    monkeypatch.setattr(table, "pairs_table", lost)
    assert export(config).notes == []
    assert not (Path(config.output.url) / "pairs.parquet").exists()
    assert verify_export(config.output.url) == []


@pytest.mark.slow
def test_in_memory_it_is_the_same(tmp_path: Path, shards: str, job: Job) -> None:
    export(job(shards))
    export(job(shards, output={"url": f"memory://{tmp_path.name}"}))
    local, memory = (
        derived.read(open_export(url), NAME) for url in (str(tmp_path / "out"), f"memory://{tmp_path.name}")
    )
    assert local.equals(memory)
