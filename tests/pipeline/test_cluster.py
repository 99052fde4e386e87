"""Devices that are asked for are looked for before any work; CPUs are those that this process may use."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from finer_ray.config import Config
from finer_ray.errors import ConfigError, WorkerError
from finer_ray.pipeline import cluster
from finer_ray.pipeline.cluster import check_device, connected, cpus, own_resources
from finer_ray.pipeline.export import export
from finer_ray.pipeline.forecast import forecast

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
        ({"device": "cuda", "gpus_per_actor": 2.0, "runner": "inline"}, True),
        ({"device": "auto", "gpus_per_actor": 2.0}, True),
        ({"device": "cpu", "actors_min": 2}, True),
    ],
)
def test_gpus_that_are_not_here(compute: dict[str, Any], enough: bool, job: Job) -> None:
    config = job("a.tar", compute={"runner": "ray", **compute}).compute
    if enough:
        check_device(config)
        return
    with pytest.raises(ConfigError, match=r"compute.device: cuda needs 2 GPU .* finds 1 on this machine"):
        check_device(config)


def test_a_cluster_may_yet_start_them(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    check_device(job("a.tar", compute={"device": "cuda", "runner": "ray"}).compute)
    with pytest.raises(ConfigError, match=r"compute\.device"):
        check_device(job("a.tar", compute={"device": "cuda", "runner": "inline"}).compute)


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
    with nullcontext() if message is None else pytest.raises(WorkerError, match=message), connected():
        pass
    assert len(tried) == min(failing + 1, 3)
    assert all(options["address"] == "local" for options in tried)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to CPUs")
def test_cpus_are_those_of_this_process(job: Job) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpus() == 1
        assert own_resources(job("a.tar", compute={"device": "cpu"}).compute).threads == 1
    finally:
        os.sched_setaffinity(0, before)
