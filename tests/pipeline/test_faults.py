"""Faults while Ray is at work: killed drivers, workers, actors and nodes, on a local disk and on S3.

Whatever is killed, and whenever: after the next run the export is that of an undisturbed one.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from finer_ray.config import Config
from finer_ray.pipeline.cluster import connected
from finer_ray.pipeline.export import export
from finer_ray.store.export import Export, open_export
from finer_ray.store.files import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import write_tar
from tests.pipeline.exports import many, same
from tests.s3 import served

pytestmark = pytest.mark.slow
Job = Callable[..., Config]
# A driver takes half a minute to start and be killed; set the variable for more of them.
KILLS = int(os.environ.get("FINER_RAY_KILLS", "1"))
STAGES = {"actor": "ray::MapWorker", "reader": "ray::ReadUnits", "writer": "ray::MapBatches(write)"}


@pytest.fixture(scope="module", params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where exports go."""
    if request.param == "local":
        yield str(tmp_path_factory.mktemp("faults"))
        return
    with served():
        yield "s3://bucket/faults"


@pytest.fixture
def shards(tmp_path: Path) -> str:
    write_tar(tmp_path / "a.tar", many(150))
    write_tar(tmp_path / "b.tar", [*many(89, 200), ("bad.jpg", b"no photo")])
    return str(tmp_path / "*.tar")


@pytest.fixture
def undisturbed(tmp_path: Path, shards: str, job: Job) -> Export:
    config = job(shards, output={"url": str(tmp_path / "undisturbed")}, metrics=METRICS)
    export(config)
    return open_export(config.output.url)


# So that a unit takes long enough to be killed in.
METRICS = {"deletion": True, "steps": 10}


def check(config: Config, undisturbed: Export) -> None:
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    same(made, undisturbed)
    assert made.images.num_rows == 239
    assert made.failures["key"].to_pylist() == ["bad"]


def commits(config: Config) -> int:
    return len(Folder(config.output.url).names("parts/images"))


def test_a_driver_killed_at_random_moments(
    tmp_path: Path, place: str, shards: str, job: Job, undisturbed: Export
) -> None:
    """The same command again and again, until it ends; its whole process group dies each time."""
    config = job(shards, output={"url": f"{place}/driver"}, metrics=METRICS, compute={"runner": "ray"})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", "from finer_ray.cli import main; main()", "export", str(file)]
    dice = random.Random(place)
    for killed in range(KILLS):
        before = commits(config)
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as driver:
            deadline = time.monotonic() + 240
            # Once in the middle of units, once at any moment after the lease was taken.
            while driver.poll() is None and time.monotonic() < deadline:
                if commits(config) > before + (2 if killed == 0 else 0):
                    break
                time.sleep(0.05)
            time.sleep(dice.uniform(0, 0.5))
            end(driver.pid)
        assert Folder(config.output.url).read("export.json") is None, "the driver was to be killed half-way"
    done = commits(config)
    assert 2 < done < 31
    # Whoever goes on need not be Ray.
    inline = config.model_copy(update={"compute": config.compute.model_copy(update={"runner": "inline"})})
    assert export(inline).new <= 240 - 2 * done
    check(config, undisturbed)


def end(pid: int) -> None:
    """Kill a process and all that it has started, Ray's daemons among them, at once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in family:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def of_ours(name: str) -> list[psutil.Process]:
    """Processes of this test's own clusters that are called so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(name):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@contextmanager
def killing(names: dict[str, str], seconds: tuple[float, float], most: int) -> Iterator[Counter[str]]:
    """Kill Ray's processes of some kinds at random moments, as long as the context lasts."""
    killed: Counter[str] = Counter()
    over = threading.Event()
    dice = random.Random(0)

    def kill() -> None:
        while not over.wait(dice.uniform(*seconds)):
            kind = min(names, key=lambda name: (killed[name], name))
            found = of_ours(names[kind])
            if found and killed[kind] < most:
                dice.choice(found).send_signal(signal.SIGKILL)
                killed[kind] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_workers_and_actors_killed_at_random_moments(place: str, shards: str, job: Job, undisturbed: Export) -> None:
    config = job(shards, output={"url": f"{place}/workers"}, metrics=METRICS, compute={"runner": "ray"})
    with connected(), killing(STAGES, (0.05, 0.4), 2) as killed:
        summary = export(config)
    assert killed["actor"] >= 1
    assert sum(killed.values()) >= 3
    assert summary.new == 240
    check(config, undisturbed)


def test_two_nodes_share_the_work_and_one_is_lost(tmp_path: Path, shards: str, job: Job, undisturbed: Export) -> None:
    config = job(
        shards,
        metrics=METRICS,
        compute={"runner": "ray", "actors_min": 2, "actors_max": 2, "cpus_per_actor": 2.0, "decode_cpus": 0.5},
    )
    # An actor takes more than half of a node, so that each gets one.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    second = cluster.add_node(num_cpus=3)
    ray.init(address=cluster.address, log_to_driver=False)
    seen: list[set[int]] = []
    lost = threading.Event()

    def lose() -> None:
        while not lost.is_set():
            seen.append({process.ppid() for process in of_ours(STAGES["actor"])})
            if commits(config) >= 4 and len(seen[-1]) > 1:
                cluster.remove_node(second, allow_graceful=False)
                lost.set()
                cluster.add_node(num_cpus=3)
            time.sleep(0.1)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        export(config)
        assert lost.is_set(), "the node was to be lost half-way"
    finally:
        lost.set()
        thread.join()
        ray.shutdown()
        cluster.shutdown()
    assert max(map(len, seen)) == 2
    check(config, undisturbed)
