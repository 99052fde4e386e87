"""Many pages: processes write what one would, their errors are ours, and nothing is left where they are stopped."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from finer_ray.errors import ExportError
from finer_ray.report.site import write_report
from finer_ray.report.site.image_pages import Shown
from finer_ray.report.site.workers import in_order
from finer_ray.store import batches as store_batches
from finer_ray.store.batches import Held, batches, with_lines
from tests.report.site.exports import PER_UNIT, SIZE, make
from tests.report.site.work import dies, fails


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_processes_write_what_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_batches, "FEW", PER_UNIT)
    export = make(tmp_path, images=20, lacking=[3])
    write_report(export, tmp_path / "one")
    write_report(export, tmp_path / "two", jobs=2)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert multiprocessing.active_children() == []


def test_batches_hold_every_row_once_and_break_between_units(tmp_path: Path) -> None:
    export = make(tmp_path, images=3, regions=False)
    random = np.random.default_rng(0)
    for count in (0, 1, 40, 2000):
        rows = sorted(random.choice(5000, count, replace=False).tolist())
        found = batches(export, rows)
        assert [row for group in found for row in group] == rows
        for before, after in pairwise(found):
            assert store_batches.FEW <= len(before) <= store_batches.MANY
            assert before[-1] // PER_UNIT < after[0] // PER_UNIT
    assert [len(group) for group in batches(export, list(range(20)))] == [20]


def test_a_batch_answers_as_its_export(tmp_path: Path) -> None:
    export = make(tmp_path, images=12, lacking=[4])
    rows = [1, 4, 9]
    [batch] = with_lines(export, [rows])
    held = Held(export, batch)
    assert held.images.equals(export.images.take(rows))
    assert sorted(held.metrics["row"].to_pylist()) == [1, 1, 4, 4, 9, 9]
    np.testing.assert_array_equal(held.contrast([9, 1], 2.0, size=SIZE), export.contrast([9, 1], 2.0, size=SIZE))
    np.testing.assert_array_equal(
        held.contrast([4], weighting="probability"), export.contrast([4], weighting="probability")
    )
    for name in export.manifest.layout.maps:
        np.testing.assert_array_equal(held.maps([4, 4, 1], name), export.maps([4, 4, 1], name))
    with pytest.raises(IndexError, match="not all of the batch"):
        held.maps([2], "gradcam")


def test_what_comes_back_of_an_image_is_small(tmp_path: Path) -> None:
    """A line and the values of its sweep: no photo, no map, no curve."""
    from finer_ray.report.site import site_writer

    kept: list[Shown] = []

    class Watched(site_writer._Writer):
        def _images(self) -> list[Shown]:
            kept.extend(super()._images())
            return kept

    export = make(tmp_path)
    sample = site_writer.draw_sample(export, 6, 2, 0)
    (tmp_path / "draft").mkdir()
    Watched(export, tmp_path / "draft", sample, [], 0, None, 1).write()
    assert len(kept) == 6
    for image in kept:
        assert image.sweep is not None
        assert all(values.base is None for values in image.sweep.values())
        assert len(pickle.dumps(image)) < 4000


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_errors_are_raised_here(jobs: int) -> None:
    found = in_order(fails, range(9), jobs)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ExportError, match="three"):
        next(found)
    assert multiprocessing.active_children() == []


@pytest.mark.faults
def test_a_killed_process_is_told_in_words() -> None:
    with pytest.raises(ExportError, match="ended before its work was done; if it was killed because memory ran out"):
        list(in_order(dies, range(4), 2))


@pytest.mark.faults
def test_stopping_waits_for_nobody() -> None:
    found = in_order(time.sleep, [0, 60, 60, 60], 2)
    assert next(found) is None
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 30
    assert multiprocessing.active_children() == []


SCRIPT = """
import signal
import time
from pathlib import Path

if __name__ == "__main__":
    from finer_ray.report.site import site_writer, workers, write_report
    from finer_ray.store.reading import open_export

    def stalled(work, items, jobs):
        print("begun", flush=True)
        return workers.in_order(time.sleep, [60] * 4, 2)

    site_writer.in_order = stalled
    # Whoever runs tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write_report(open_export({url!r}), Path({to!r}), jobs=2)
"""


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_run_that_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    export = make(tmp_path)
    script = tmp_path / "script.py"
    to = tmp_path / "place" / "report"
    script.write_text(SCRIPT.format(url=export.folder.url, to=str(to)))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, script]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout is not None
    assert run.stdout.readline() == b"begun\n"
    parent = psutil.Process(run.pid)
    while len(workers := parent.children(recursive=True)) < 2:
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(number)
    assert run.wait(30) != 0
    _, left = psutil.wait_procs(workers, timeout=30)
    assert left == []
    if number == signal.SIGINT:
        assert list(to.parent.iterdir()) == []
