"""Files of an export: compared and swapped by one of several, removed by name."""

import fcntl
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from finer_ray.errors import LeaseError, StoreError
from finer_ray.store import storage
from finer_ray.store.storage import Folder
from tests.s3 import Server


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, s3: Server) -> Folder:
    places = {"local": str(tmp_path), "memory": f"memory://{tmp_path.name}", "s3": f"s3://bucket/{tmp_path.name}"}
    return Folder(places[request.param])


def test_a_file_is_replaced_only_as_it_was_read(folder: Folder) -> None:
    folder.replace("a.json", b"1", None)
    # As when the answer to the first attempt was lost.
    folder.replace("a.json", b"1", None)
    folder.replace("a.json", b"2", b"1")
    for content, expected in ((b"3", b"1"), (b"3", None), (None, b"1")):
        with pytest.raises(LeaseError, match=r"another run has written .*a\.json"):
            folder.replace("a.json", content, expected)
    assert folder.read("a.json") == b"2"
    folder.replace("a.json", None, b"2")
    assert folder.read("a.json") is None
    folder.replace("a.json", None, None)
    with pytest.raises(LeaseError):
        folder.replace("a.json", b"3", b"2")


def test_an_empty_folder_of_an_object_store_is_empty(s3: Server, tmp_path: Path) -> None:
    folder = Folder(f"s3://bucket/{tmp_path.name}")
    # As a store's console makes one.
    folder.fs.pipe_file(folder.path(""), b"")
    assert folder.names("", "") == []
    folder.write("a/b.txt", b"")
    assert (folder.names("", ""), folder.names("a", "")) == (["a"], ["b.txt"])


def _swap(url: str, start: Any, results: Any, number: int) -> None:
    folder = Folder(url)
    start.wait()
    try:
        folder.replace("a.json", f"{number}".encode(), b"0")
        results.put(number)
    except LeaseError:
        results.put(None)


@pytest.mark.parametrize("scheme", ["local", "s3"])
def test_of_many_processes_one_replaces(scheme: str, tmp_path: Path, s3: Server) -> None:
    url = str(tmp_path) if scheme == "local" else f"s3://bucket/{tmp_path.name}"
    Folder(url).write("a.json", b"0")
    # Not forked from this process: the S3 client has threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start, results = context.Event(), context.Queue()
    others = [context.Process(target=_swap, args=(url, start, results, number)) for number in range(1, 5)]
    for process in others:
        process.start()
    start.set()
    said = [results.get(timeout=60) for _ in others]
    for process in others:
        process.join()
    (winner,) = [number for number in said if number is not None]
    assert Folder(url).read("a.json") == f"{winner}".encode()


def test_s3_itself_refuses_what_changed_after_it_was_read(
    tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever this process believes: the condition travels with the write."""
    folder = Folder(f"s3://bucket/{tmp_path.name}")
    folder.write("a.json", b"theirs")
    read = folder.read
    first = [b"ours"]
    monkeypatch.setattr(folder, "read", lambda name: first.pop() if first else read(name))
    monkeypatch.setattr(folder, "_entity_tag", lambda name: '"0123456789abcdef0123456789abcdef"')
    with pytest.raises(LeaseError):
        folder.replace("a.json", b"new", b"ours")
    first.append(None)
    with pytest.raises(LeaseError):
        folder.replace("a.json", b"new", None)
    assert read("a.json") == b"theirs"


def test_a_process_that_stands_still_in_the_middle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_SECONDS", 0.2)
    folder = Folder(str(tmp_path))
    folder.replace("a.json", b"1", None)
    holder = os.open(tmp_path / "lease" / "lock", os.O_RDWR)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LeaseError, match=r"stands still with .*lease/lock locked"):
            folder.replace("a.json", b"2", b"1")
    finally:
        os.close(holder)
    folder.replace("a.json", b"2", b"1")


def test_a_server_without_conditions_is_written_to_all_the_same(
    tmp_path: Path, s3: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(f"s3://bucket/{tmp_path.name}")
    folder.write("a.json", b"1")
    put = folder.fs.pipe_file

    def old_server(path: str, content: bytes, **conditions: Any) -> None:
        if "IfMatch" in conditions:
            raise OSError(38, "NotImplemented")
        put(path, content, **conditions)

    monkeypatch.setattr(folder.fs, "pipe_file", old_server)
    folder.replace("a.json", b"2", b"1")
    assert folder.read("a.json") == b"2"


def test_files_are_removed_by_name_and_folders_only_if_empty(folder: Folder) -> None:
    for name in ("a/1", "a/2", "a/mine"):
        folder.write(name, b"x")
    folder.remove_files(["a/1", "a/2", "a/3"])
    folder.remove_files([])
    folder.remove_empty("a")
    assert folder.names("a", "") == ["mine"]
    folder.remove_files(["a/mine"])
    folder.remove_empty("a")
    assert folder.names("a", "") == []
    if folder.local:
        assert not folder.exists("a")


def test_a_disk_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"):
        Folder(str(tmp_path / "file" / "below")).replace("a.json", b"1", None)
