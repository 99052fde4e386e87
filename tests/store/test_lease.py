"""The lease: one writer at a time, whatever happens to writers."""

import json
import multiprocessing
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from finer_ray.errors import LeaseError, StoreError
from finer_ray.store.lease import acquire, current
from finer_ray.store.storage import Folder

HOLD = """
import sys, time
from finer_ray.store.storage import Folder
from finer_ray.store.lease import acquire
with acquire(Folder(sys.argv[1]), 60):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-lease")


def edit(folder: Folder, **news: Any) -> None:
    """Change what the lease file says, as if another machine had written it."""
    (name,) = folder.names("lease", ".json")
    tree = json.loads(folder.read(f"lease/{name}") or b"")
    folder.write(f"lease/{name}", json.dumps({**tree, **news}).encode())


def test_a_second_writer_is_refused_and_told_who_writes(folder: Folder) -> None:
    with (
        acquire(folder, 60),
        pytest.raises(LeaseError, match=r"process \d+ on .* is writing to .*; try again"),
        acquire(folder, 60),
    ):
        pass
    assert current(folder) is None
    with acquire(folder, 60):
        pass


def test_an_expired_lease_is_taken_over_and_its_holder_notices(folder: Folder) -> None:
    with acquire(folder, 3600) as first:
        edit(folder, expires=time.time() - 1)
        with acquire(folder, 60) as second:
            second.confirm_held()
            with pytest.raises(LeaseError, match="was held up, and another run"):
                first.confirm_held()
    assert current(folder) is None


def test_a_run_that_stood_still_is_told_whatever_came_between(folder: Folder) -> None:
    """Another took over and ended, and a third may be at work: no number is used twice, so the first finds a higher."""
    with acquire(folder, 3600) as first:
        edit(folder, expires=time.time() - 1)
        with acquire(folder, 60):
            pass
        assert current(folder) is None
        with pytest.raises(LeaseError, match="has taken over"):
            first.confirm_held()
        with acquire(folder, 60) as third:
            third.confirm_held()
            with pytest.raises(LeaseError):
                first.raise_if_lost()
        third_file = folder.names("lease", ".json")
    # And giving its own back, it leaves theirs alone.
    assert folder.names("lease", ".json") == third_file == ["00000003.json"]


def test_a_lease_whose_file_is_gone_or_another_s_is_lost(folder: Folder) -> None:
    with acquire(folder, 3600) as lease:
        edit(folder, owner="somebody else")
        with pytest.raises(LeaseError, match="has its lease"):
            lease.confirm_held()
    folder.remove("lease/00000001.json")
    with acquire(folder, 3600) as lease:
        for name in folder.names("lease", ".json"):
            folder.remove(f"lease/{name}")
        with pytest.raises(LeaseError, match="its lease is gone"):
            lease.confirm_held()


def test_a_lease_that_was_not_renewed_in_time_is_looked_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own clock a run knows when others may have taken over; until then `check` asks nobody."""
    folder, asked = Folder(str(tmp_path)), []
    with acquire(folder, 3600) as lease:
        monkeypatch.setattr(lease, "_look", lambda: asked.append(True))
        lease.raise_if_lost()
        assert not asked
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + 4000)
        lease.raise_if_lost()
        assert asked
        monkeypatch.undo()


def test_another_machine_is_believed_until_its_lease_ends(folder: Folder) -> None:
    with acquire(folder, 3600):
        edit(folder, system="another boot", pid=1, host="elsewhere")
        with pytest.raises(LeaseError, match="on elsewhere"), acquire(folder, 60):
            pass


def test_renewals_carry_progress(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with acquire(folder, 1.0) as lease:
        first = current(folder)
        lease.report_progress(done=3, rate=2.5)
        time.sleep(1.5)
        found = current(folder)
    assert first is not None
    assert found is not None
    assert found.alive
    assert found.expires > first.expires
    assert found.progress == {"done": 3.0, "rate": 2.5}


def test_a_store_that_fails_for_a_moment_does_not_end_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    with acquire(folder, 1.0) as lease:
        before = current(folder)
        with monkeypatch.context() as patch:

            def fail(*_: object) -> None:
                raise TimeoutError

            patch.setattr(folder, "names", fail)
            time.sleep(0.6)
        time.sleep(0.6)
        lease.confirm_held()
        after = current(folder)
    assert before is not None
    assert after is not None
    assert after.renewed > before.renewed + 0.5


def test_a_killed_process_is_followed_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LeaseError), acquire(Folder(str(tmp_path)), 60):
            pass
        process.kill()
        # Not waited for: a zombie does not write.
        deadline = time.monotonic() + 10
        while (holder := current(Folder(str(tmp_path)))) and holder.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        with acquire(Folder(str(tmp_path)), 60):
            pass


def _try(url: str, start: Any, results: Any, all_have_tried: Any) -> None:
    start.wait()
    try:
        with acquire(Folder(url), 60):
            results.put("held")
            all_have_tried.wait(60)
    except LeaseError:
        results.put("refused")


def test_of_many_that_take_over_together_one_succeeds(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with acquire(folder, 3600):
        edit(folder, expires=time.time() - 1)
        context = multiprocessing.get_context("fork")
        start, results, all_have_tried = context.Event(), context.Queue(), context.Event()
        others = [context.Process(target=_try, args=(str(tmp_path), start, results, all_have_tried)) for _ in range(8)]
        for process in others:
            process.start()
        start.set()
        said = sorted(results.get(timeout=30) for _ in others)
        all_have_tried.set()
        for process in others:
            process.join()
    assert said == ["held"] + ["refused"] * 7


def test_of_many_threads_one_succeeds_in_memory() -> None:
    folder, results, start = Folder("memory://lease-race"), [], threading.Barrier(8)

    def attempt() -> None:
        start.wait()
        try:
            with acquire(folder, 60):
                results.append("held")
                time.sleep(0.5)
        except LeaseError:
            results.append("refused")

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held"] + ["refused"] * 7


def test_a_lease_is_given_back_on_a_full_disk(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be written, its own is removed: it would refuse others as long as this process lives."""

    def full(*_: object) -> None:
        raise StoreError("no space left")

    with acquire(folder, 3600):
        monkeypatch.setattr(folder, "write", full)
    assert current(folder) is None
    assert folder.names("lease", ".json") == []
