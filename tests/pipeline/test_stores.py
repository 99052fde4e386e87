"""Stores: local paths, memory:// and s3:// give the same export, and a store that fails costs nothing."""

import errno
import gc
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pyarrow as pa
import pytest

from finer_ray import retry
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, LeaseError, StoreError
from finer_ray.pipeline import stages
from finer_ray.pipeline.export import export
from finer_ray.pipeline.writing import write
from finer_ray.store import tensors
from finer_ray.store.lease import acquire, current
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import jobs_in, write_tar
from tests.pipeline.exports import by_key, many, same
from tests.s3 import Server

Job = Callable[..., Config]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "a.tar", many(20))
    write_tar(folder / "b.tar", [*many(9, 30), ("bad.jpg", b"no photo")])
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Any:
    """The undisturbed export of these shards."""
    config = jobs_in(tmp_path_factory.mktemp("local"))(str(shards / "*.tar"))
    export(config)
    return open_export(config.output.url)


def put(shards: Path, url: str) -> None:
    """Copy the shards to a store."""
    fs, root = fsspec.core.url_to_fs(url)
    for file in shards.iterdir():
        fs.pipe_file(f"{root}/{file.name}", file.read_bytes())


def place(scheme: str, tmp_path: Path) -> str:
    return {"memory": "memory://", "s3": "s3://bucket/"}[scheme] + tmp_path.name


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_every_store_gives_the_same_export(
    scheme: str, tmp_path: Path, shards: Path, job: Job, s3: Server, local: Any
) -> None:
    url = place(scheme, tmp_path)
    put(shards, f"{url}/in")
    for pattern in (f"{url}/in/*.tar", f"{url}/in/{{a,b}}.tar"):
        config = job(pattern, output={"url": f"{url}/out"})
        summary = export(config)
    assert summary.new == 0
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    assert by_key(made) == by_key(local)
    assert made.classes.equals(local.classes)
    assert made.failures.drop_columns(["shard"]).equals(local.failures.drop_columns(["shard"]))
    assert Folder(config.output.url).read("plan.json") is None
    assert current(Folder(config.output.url)) is None


@pytest.mark.faults
@pytest.mark.usefixtures("ray_cluster")
def test_ray_from_and_to_s3_while_the_server_fails(
    tmp_path: Path, shards: Path, job: Job, s3: Server, local: Any
) -> None:
    """A tenth of all requests fail: errors of 500 and 503, some only after a while."""
    url = place("s3", tmp_path)
    put(shards, f"{url}/in")
    config = job(f"{url}/in/*.tar", output={"url": f"{url}/out"}, compute={"executor": "ray"})
    with s3.failing(0.1, "InternalError", "SlowDown", "hang"):
        before = s3.failed
        summary = export(config)
    assert s3.failed > before + 10
    assert (summary.images, summary.failures) == (29, 1)
    assert verify_export(config.output.url) == []
    assert by_key(open_export(config.output.url)) == by_key(local)


@pytest.mark.faults
@pytest.mark.parametrize("what", ["objects", "shards"])
def test_a_store_that_stays_away_stops_the_run_and_keeps_its_commits(
    what: str, tmp_path: Path, shards: Path, job: Job, s3: Server, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place("s3", tmp_path)
    put(shards, f"{url}/in")
    config = job(f"{url}/in/*.tar", output={"url": f"{url}/out"}, compute={"retry_seconds": 1.0})
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.05)
    seen: list[str] = []

    def later(method: str, path: str) -> bool:
        """From the third unit on."""
        if method == "PUT" and "/parts/images/" in path:
            seen.append(path)
        wanted = {"objects": "/maps/c/", "shards": "/in/"}[what]
        return len(set(seen)) > 2 and wanted in path and (method == "GET") == (what == "shards")

    with (
        pytest.raises(StoreError, match=r"cannot (write|read) s3://.*run the same command again"),
        s3.failing(1.0, applies=later),
    ):
        export(config)
    commits = Folder(config.output.url).names("parts/images")
    assert len(commits) >= 2
    summary = export(config)
    assert summary.new == sum([8, 8, 4, 8, 2][len(commits) :])
    # What could not be read for a while is no failure of an image.
    assert verify_export(config.output.url) == []
    assert by_key(open_export(config.output.url)) == by_key(local)


@pytest.mark.faults
def test_a_store_that_forbids_is_not_asked_again(tmp_path: Path, shards: Path, job: Job, s3: Server) -> None:
    config = job(str(shards / "*.tar"), output={"url": place("s3", tmp_path)}, compute={"retry_seconds": 3600.0})
    with (
        pytest.raises(StoreError, match=r"AccessDenied, says the test.*give the permission"),
        s3.failing(1.0, "AccessDenied", applies=lambda method, path: method == "PUT" and "/parts/" in path),
    ):
        export(config)


def test_a_second_run_on_s3_is_refused(tmp_path: Path, shards: Path, job: Job, s3: Server) -> None:
    config = job(str(shards / "*.tar"), output={"url": place("s3", tmp_path)})
    folder = Folder(config.output.url)
    with acquire(folder, 60) as lease:
        with pytest.raises(LeaseError):
            export(config)
        # Nor where both have seen that there is none: the server lets one of them create it.
        with pytest.raises(FileExistsError):
            folder.create("lease/00000001.json", b"{}")
        lease.confirm_held()
    export(config)
    assert verify_export(config.output.url) == []


def write_until_full(ballast: Path, url: str, layout: Any, retry_seconds: float, table: pa.Table) -> pa.Table:
    """The writing stage on a disk that has room for two units while a file lies on it."""
    written = tensors._write

    def full(folder: Folder, layout: Any, unit: int, values: Any) -> None:
        if unit >= 2 and ballast.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(folder, layout, unit, values)

    with mock.patch.object(tensors, "_write", full):
        return write(url, layout, retry_seconds, table)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A small disk, and a file that fills it: a file system of its own of two megabytes, where this process may mount
    one; elsewhere a folder, and a writing stage that is told so."""
    folder = tmp_path / "disk"
    folder.mkdir()
    ballast = folder / "ballast"
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if not mounted:
        monkeypatch.setattr(stages, "write", partial(write_until_full, ballast))
    ballast.write_bytes(bytes(2**21 - 200 * 2**10))
    try:
        yield folder, ballast
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Cycles stay until somebody asks for them to be found, as they may for long in a process that waits."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.faults
@pytest.mark.usefixtures("ray_cluster", "no_collection")
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_full_disk_stops_the_run_and_keeps_its_commits(
    executor: str, disk: tuple[Path, Path], shards: Path, job: Job, local: Any
) -> None:
    """At once, however long a store that does not answer is waited for."""
    folder, ballast = disk
    compute = {"executor": executor, "retry_seconds": 3600.0}
    config = job(str(shards / "*.tar"), output={"url": str(folder / "out")}, compute=compute)
    # The whole message: Ray has nothing to add to it.
    with pytest.raises(StoreError, match=r"^cannot write .*No space left.*make room.*\(what is committed is kept\)$"):
        export(config)
    # A thread of Ray Data that would hold blocks of this run, and so its actor, whose CPU the next run needs.
    assert "Prefetcher" not in [thread.name for thread in threading.enumerate()]
    ballast.unlink()
    commits = len(list((folder / "out" / "parts" / "images").glob("*.parquet")))
    summary = export(config)
    assert commits
    assert summary.new < 30
    assert verify_export(config.output.url) == []
    same(open_export(config.output.url), local)


def test_memory_needs_one_process(tmp_path: Path, job: Job) -> None:
    with pytest.raises(ConfigError, match=r"memory:// is seen by this process alone.*inline"):
        job("memory://x/*.tar", compute={"executor": "ray"})
    with pytest.raises(ConfigError, match="inline"):
        job(str(tmp_path), output={"url": "memory://x"}, compute={"executor": "ray"})


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me:hunter2@host/shards/*.tar",
        "s3://AKIAEXAMPLE:hunter2@bucket/a.tar",
        "https://host/a.tar?X-Amz-Credential=x&X-Amz-Signature=hunter2",
        "https://account.blob.core.windows.net/c/a.tar?sv=2024&sig=hunter2",
        "https://host/a.tar?token=hunter2",
        "simplecache::https://me:hunter2@host/a.tar",
    ],
)
def test_secrets_in_urls_are_refused_and_not_repeated(url: str, tmp_path: Path, job: Job) -> None:
    for given in ({"shards": url}, {"shards": str(tmp_path), "output": {"url": url}}):
        with pytest.raises(ConfigError, match=r"must not hold a password.*environment") as caught:
            job(given.pop("shards"), **given)
        assert "hunter2" not in str(caught.value)
