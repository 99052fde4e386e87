"""Devices that are asked for are looked for before any work; CPUs are those that this process may use."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, FinerRayError, WorkerError
from finer_ray.pipeline import cluster
from finer_ray.pipeline.cluster import check_device, connected
from finer_ray.pipeline.export import export
from finer_ray.pipeline.forecast import forecast
from finer_ray.pipeline.resources import cpu_count, own_resources

Job = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.parametrize(
    ("compute", "enough"),
    [
        ({"device": "cuda"}, True),
        ({"device": "cuda", "actors_min": 2}, False),
        ({"device": "cuda", "actors_min": 2, "gpus_per_actor": 0.5}, True),
        ({"device": "cuda", "gpus_per_actor": 2.0}, False),
        ({"device": "cuda", "gpus_per_actor": 2.0, "executor": "inline"}, True),
        ({"device": "auto", "gpus_per_actor": 2.0}, True),
        ({"device": "cpu", "actors_min": 2}, True),
    ],
)
def test_gpus_that_are_not_here(compute: dict[str, Any], enough: bool, job: Job) -> None:
    config = job("a.tar", compute={"executor": "ray", **compute}).compute
    if enough:
        check_device(config)
        return
    with pytest.raises(ConfigError, match=r"compute.device: cuda needs 2 GPU .* finds 1 on this machine"):
        check_device(config)


def test_a_cluster_may_yet_start_them(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with answering(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        check_device(job("a.tar", compute={"device": "cuda", "executor": "ray"}).compute)
    with pytest.raises(ConfigError, match=r"compute\.device"):
        check_device(job("a.tar", compute={"device": "cuda", "executor": "inline"}).compute)


@pytest.mark.parametrize("run", [export, forecast])
def test_nothing_is_begun_without_them(run: Any, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = job("a.tar", output={"url": str(tmp_path / "out")}, compute={"device": "cuda"})
    with pytest.raises(ConfigError, match="PyTorch finds 0 on this machine"):
        run(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("failing", "message"), [(0, None), (2, None), (3, "3 attempts; .*inline.*timed out")])
def test_ray_is_started_again(failing: int, message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        tried.append(options)
        if len(tried) <= failing:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(cluster.ray._private.worker, "_global_node", None)
    with nullcontext() if message is None else pytest.raises(WorkerError, match=message), connected():
        pass
    assert len(tried) == min(failing + 1, 3)
    assert all(options["address"] == "local" for options in tried)


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port at which nothing listens, and which no other process can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("http://127.0.0.1:8265", ConfigError, "no cluster answers there"),
        ("https://host", ConfigError, "no cluster answers there"),
        ("ray://127.0.0.1:10001", ConfigError, "Ray's client"),
        ("127.0.0.1:{free}", WorkerError, "no cluster answers there"),
        ("localhost:{free}", WorkerError, "no cluster answers there"),
        ("host-without-port", WorkerError, "no cluster answers there"),
        ("auto", WorkerError, "no cluster answers there"),
    ],
)
def test_an_address_where_no_cluster_is(
    address: str, kind: type[FinerRayError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself is never asked: it waits for minutes."""
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was asked"))
    monkeypatch.setattr(cluster, "CONNECT_PAUSE", 0.0)
    # Another test's cluster on this machine is not meant.
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda _: None)
    wanted = rf"RAY_ADDRESS is .*{message}.*unset it.*HOST:6379.*ray job submit"
    with deaf_port() as free:
        monkeypatch.setenv("RAY_ADDRESS", address.format(free=free))
        with pytest.raises(kind, match=wanted), connected():
            pass


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The address of a server that answers so whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"SSH-2.0-OpenSSH_9"])
def test_a_server_that_is_no_cluster(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's port, for one."""
    monkeypatch.setattr(cluster.ray, "init", lambda **_: pytest.fail("Ray was asked"))
    monkeypatch.setattr(cluster, "CONNECT_PAUSE", 0.0)
    with answering(answer) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(WorkerError, match="no cluster answers there"), connected():
            pass


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_is_there_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same greeting."""
    monkeypatch.undo()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster._reach(ray.get_runtime_context().gcs_address)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("http://127.0.0.1:8265", ConfigError),
        ("ray://127.0.0.1:10001", ConfigError),
        ("127.0.0.1:{free}", WorkerError),
    ],
)
def test_an_address_that_does_not_work_is_refused_before_any_work(
    address: str, kind: type[FinerRayError], tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_PAUSE", 0.0)
    config = job("a.tar", output={"url": str(tmp_path / "out")}, compute={"executor": "ray"})
    with deaf_port() as free:
        monkeypatch.setenv("RAY_ADDRESS", address.format(free=free))
        with pytest.raises(kind, match="RAY_ADDRESS is"):
            export(config)
    assert not (tmp_path / "out").exists()
    check_device(config.compute.model_copy(update={"executor": "inline"}))


@pytest.mark.parametrize(
    ("mode", "elsewhere", "made"),
    [(None, False, True), ("token", False, True), ("disabled", False, False), (None, True, False)],
)
@pytest.mark.parametrize("before", [None, 0o644])
def test_the_token_is_for_its_owner_alone_before_ray_starts(
    mode: str | None, elsewhere: bool, made: bool, before: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / ".ray" / "auth_token"
    if before is not None:
        token.parent.mkdir()
        token.write_text("of long ago")
        token.chmod(before)
    found: list[int | None] = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "own")) if elsewhere else None
    monkeypatch.setenv("RAY_AUTH_MODE", mode) if mode else monkeypatch.delenv("RAY_AUTH_MODE", raising=False)

    def init(**_: Any) -> None:
        found.append(stat.S_IMODE(token.stat().st_mode) if token.exists() else None)
        raise ConfigError("far enough")

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    old = os.umask(0o022)
    try:
        with pytest.raises(WorkerError, match="far enough"), connected():
            pass
    finally:
        os.umask(old)
    assert set(found) == {0o600 if made or before else None}
    if before is not None:
        assert token.read_text() == "of long ago"
    elif made:
        assert len(token.read_text()) == 64
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to CPUs")
def test_cpus_are_those_of_this_process(job: Job) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpu_count() == 1
        assert own_resources(job("a.tar", compute={"device": "cpu"}).compute).threads == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("slurm", "warned"),
    [
        ({}, None),
        ({"SLURM_NNODES": "1"}, None),
        ({"SLURM_NNODES": "4"}, "4 nodes"),
        ({"SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "1"}, None),
        ({"SLURM_NNODES": "4", "SLURM_STEP_NUM_NODES": "2"}, "2 nodes"),
    ],
)
@pytest.mark.parametrize("address", [None, "local", "10.1.2.3:6379"])
def test_nodes_of_slurm_that_would_stand_idle(
    address: str | None,
    slurm: dict[str, str],
    warned: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RAY_ADDRESS", "SLURM_NNODES", "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**slurm, **({"RAY_ADDRESS": address} if address else {})}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, "_start_our_own", lambda: None)
    monkeypatch.setattr(cluster, "_join", lambda address: None)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(cluster.ray._private.worker, "_global_node", None)
    with connected():
        pass
    said = capsys.readouterr().err
    if warned is None or address == "10.1.2.3:6379":
        assert said == ""
    else:
        assert said.count("\n") == 1
        assert said.startswith(f"warning: Slurm has given {warned}")
        assert "deploy/slurm/export.sbatch" in said
