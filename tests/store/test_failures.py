"""Failures by reason, and what a job says that stops for them: the stop, `status` and `--dry-run` agree."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import InputError
from finer_ray.pipeline.export import export
from finer_ray.pipeline.forecast import forecast, forecast_lines
from finer_ray.report.status_text import status_lines
from finer_ray.store import failures as module
from finer_ray.store.failures import common_reasons, failure_summary, grouped, read_failures, too_many
from finer_ray.store.manifest import PLAN, read_manifest
from finer_ray.store.query import connect, open_committed
from finer_ray.store.status import status_of
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES
from tests.conftest import sample, write_tar

Job = Callable[..., Config]


def table(*lines: tuple[str | None, str, str]) -> pa.Table:
    rows = [{"shard": "a.tar", "key": key, "stage": stage, "error": error} for key, stage, error in lines]
    return pa.Table.from_pylist(rows, FAILURES)


def test_reasons_that_differ_in_keys_numbers_and_quoted_names_are_one() -> None:
    found = common_reasons(
        table(
            ("img_0001", "decode", "img_0001 holds 17 bytes at offset 0x1f3, of 20"),
            ("img_abcd", "decode", "img_abcd holds 9 bytes at offset 0xff, of 4711"),
            ("x", "label", "no class 'cat'; the model has 10"),
            ("y", "label", "no class 'dog'; the model has 10"),
            ("z", "label", 'no class "o\'x"; the model has 10'),
            (None, "shard", "cut"),
            ("a", "decode", "a mask can't be read"),
        )
    )
    assert [count for _, count in found] == [3, 2, 1]
    assert found[0][0].startswith("label: no class ")
    assert found[1] == ("decode: img_0001 holds 17 bytes at offset 0x1f3, of 20", 2)


def test_a_short_key_does_not_tear_the_text_apart() -> None:
    assert len(grouped(table(("a", "decode", "a bad mask"), ("b", "decode", "a bad mask")))) == 1


def test_long_errors_are_cut_and_kept_on_a_line() -> None:
    [(text, count)] = common_reasons(table(("k", "read", "a\nb " + "x" * 5000)))
    assert count == 1
    assert len(text) < 250
    assert "\n" not in text
    assert common_reasons(table()) == []


@pytest.mark.parametrize(
    ("failures", "samples", "share", "stops"),
    [(2, 10, 0.2, False), (3, 10, 0.2, True), (1, 10, 0.0, True), (0, 10, 0, False)],
)
def test_the_share_itself_is_allowed(failures: int, samples: int, share: float, stops: bool) -> None:
    assert too_many(failures, samples, share) is stops


@pytest.fixture
def stopped(tmp_path: Path, job: Job) -> Config:
    """A job that was stopped: of 24 samples in units of 8, those of the first unit have labels that are no class."""
    members = [part for i in range(6) for part in sample(f"bad{i:03d}", i, f"species {i}")]
    members += [("none0.jpg", b"no photo"), ("none1.jpg", b"no photo")]
    members += [part for i in range(16) for part in sample(f"good{i:03d}", 20 + i, 1)]
    write_tar(tmp_path / "in" / "a.tar", members)
    config = job(
        str(tmp_path / "in"),
        model={"classes": [f"class {i}" for i in range(1000)]},
        saliency={"target": "label"},
    )
    with pytest.raises(InputError) as caught:
        export(config)
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert "8 of 24 samples failed so far, more than input.max_failures 0.2 allows (4)" in text
    assert "Commonest: 6 x label: " in text
    assert "; 2 x decode: " in text
    assert "input.fields.label: ''" in text
    assert f'finer-ray query {config.output.url} "SELECT' in text
    return config


def test_status_and_dry_run_say_what_the_stop_said(stopped: Config) -> None:
    status = status_of(stopped.output.url)
    assert (status.state, status.failures, status.max_failures) == ("stopped", 8, 0.2)
    said = "\n".join(status_lines(status))
    assert "8 of 24 samples failed so far" in said
    assert "6 x label: " in said
    assert "run the same command again, and it goes on" not in said
    planned = "\n".join(forecast_lines(forecast(stopped)))
    assert "stops    8 of 24 samples failed so far" in planned
    assert "6 x label: " in planned
    assert "without --dry-run the same command does it" not in planned


def test_with_a_higher_limit_the_dry_run_says_nothing_of_it(stopped: Config, job: Job) -> None:
    higher = stopped.model_copy(update={"input": stopped.input.model_copy(update={"max_failures": 0.5})})
    found = forecast(higher)
    assert found.over_limit == ""
    assert "without --dry-run the same command does it" in forecast_lines(found)[-1]
    assert export(higher).failures == 8
    status = status_of(stopped.output.url)
    assert status.state == "complete"
    assert status.over_limit == ""
    assert any(line.startswith("  commonest failures: 6 x label: ") for line in status_lines(status))


def test_a_query_sees_what_is_committed(stopped: Config) -> None:
    made = open_committed(stopped.output.url)
    assert made.manifest.status == "running"
    with connect(made) as connection:
        assert len(connection.sql("SELECT * FROM failures").fetchall()) == 8
        assert {stage for (stage,) in connection.sql("SELECT DISTINCT stage FROM failures").fetchall()} == {
            "decode",
            "label",
        }
        assert connection.sql("SELECT count(*) FROM images").fetchall() == [(0,)]
        assert connection.sql("SELECT count(*) FROM names").fetchall() == [(1000,)]
        assert connection.sql("SELECT count(*) FROM classes").fetchall() == [(0,)]


def test_a_part_without_its_commit_is_not_seen(stopped: Config) -> None:
    folder = Folder(stopped.output.url)
    folder.write("parts/failures/00000002.parquet", folder.read("parts/failures/00000000.parquet") or b"")
    assert open_committed(stopped.output.url).failures.num_rows == 8
    assert "6 x label" in failure_summary(folder)


def test_few_files_are_read(stopped: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(stopped.output.url)
    assert read_manifest(folder, PLAN) is not None
    part = "00000000.parquet"
    monkeypatch.setattr(module, "MAX_FILES", 2)
    assert read_failures(folder, None, [part] * 5).num_rows == 16
    monkeypatch.setattr(module, "MAX_LINES", 8)
    assert read_failures(folder, None, [part] * 5).num_rows == 8
    # Published meanwhile, and so gone.
    assert read_failures(folder, None, ["00000009.parquet", part]).num_rows == 8
