"""What a cluster's Prometheus is told of a job."""

import re
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from finer_ray.config.schema import Config
from finer_ray.pipeline import cluster_metrics
from finer_ray.pipeline.cluster import connected
from finer_ray.pipeline.cluster_metrics import COUNTERS, Timed, count_images
from finer_ray.pipeline.executor import InlineExecutor, executor_of
from finer_ray.pipeline.export import export
from tests.conftest import write_tar
from tests.pipeline.exports import many


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What is counted from now on, instead of telling Ray."""
    found: list[tuple[str, float, dict[str, str]]] = []

    class Kept:
        def __init__(self, name: str) -> None:
            self._name = name

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert value > 0
            assert tuple(tags) == COUNTERS[self._name][1]
            found.append((self._name, value, tags))

    monkeypatch.setattr(cluster_metrics, "_counter", Kept)
    return found


def test_seconds_are_those_of_the_call(counted: list[tuple[str, float, dict[str, str]]]) -> None:
    assert Timed(lambda given: time.sleep(0.05) or given + 1, "load", "out")(1) == 2  # type: ignore[func-returns-value]
    tags = {"stage": "load", "export": "out"}
    (seconds, units) = counted
    assert units == ("finer_ray_stage_units", 1, tags)
    assert seconds[0] == "finer_ray_stage_seconds"
    assert 0.05 <= seconds[1] < 5
    assert seconds[2] == tags


def test_a_call_that_fails_counts_for_nothing(counted: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        Timed(lambda given: 1 // given, "load", "out")(0)
    assert counted == []


def test_images_and_failures_of_a_unit(counted: list[Any]) -> None:
    count_images({"images": 7, "failures": 0, "unknown_labels": []}, "out")
    count_images({"images": 0, "failures": 2}, "out")
    count_images({"rows": 3}, "out")
    assert counted == [("finer_ray_images", 7, {"export": "out"}), ("finer_ray_failures", 2, {"export": "out"})]


def test_inline_counts_nothing(tmp_path: Path, job: Callable[..., Config], counted: list[Any]) -> None:
    write_tar(tmp_path / "a.tar", many(4))
    config = job(str(tmp_path / "a.tar"))
    assert isinstance(executor_of(config.compute, "out"), InlineExecutor)
    assert export(config).images == 4
    assert counted == []


def scraped(node: dict[str, Any], export: str) -> dict[tuple[str, ...], float]:
    """What Prometheus would read of an export: values by name and tags, over all processes."""
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[tuple[str, ...], float] = {}
    for name, tags, value in re.findall(r"^ray_(finer_ray_\w+)_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        known = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        key = (name, *(known[tag] for tag in COUNTERS[name][1]))
        if known["export"] == export:
            found[key] = found.get(key, 0.0) + float(value)
    return found


@pytest.mark.slow
def test_the_node_tells_prometheus(tmp_path: Path, job: Callable[..., Config]) -> None:
    write_tar(tmp_path / "a.tar", [*many(21), ("bad.jpg", b"no photo")])
    out = str(tmp_path / "out")
    config = job(str(tmp_path / "a.tar"), compute={"executor": "ray"})
    with connected():
        assert export(config).images == 21
        (node,) = ray.nodes()
        deadline = time.monotonic() + 60
        # Ray's processes tell the agent every ten seconds.
        while len(found := scraped(node, out)) < 8:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
        ports: set[str] = set()
        for process in psutil.Process().children(recursive=True):
            # Some have ended since they were listed.
            with suppress(psutil.NoSuchProcess):
                connections = process.net_connections("tcp")
                ports |= {where.laddr.ip for where in connections if where.status == psutil.CONN_LISTEN}
    units = {key[1]: value for key, value in found.items() if key[0] == "finer_ray_stage_units"}
    seconds = {key[1]: value for key, value in found.items() if key[0] == "finer_ray_stage_seconds"}
    assert (found["finer_ray_images", out], found["finer_ray_failures", out]) == (21, 1)
    assert units == {"load": 3, "explain": 3, "write": 3}
    assert seconds.keys() == units.keys()
    assert all(0 < value < 120 for value in seconds.values())
    assert ports <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
