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
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from finer_ray.config.schema import Config
from finer_ray.pipeline import stages
from finer_ray.pipeline.export import export
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import jobs_in, write_tar
from tests.pipeline.exports import many, same, slow_down

pytestmark = pytest.mark.faults
Job = Callable[..., Config]
# A driver takes half a minute to start and be killed; set the variable for more of them.
KILLS = int(os.environ.get("FINER_RAY_KILLS", "1"))
STAGES = {"actor": "ray::MapWorker", "reader": "ray::ReadLoad", "writer": "ray::MapBatches(write)"}
EXPORT = """
from finer_ray.__main__ import main
from tests.pipeline.exports import slow_down
slow_down()
main()
"""
# An actor takes more than half of a node of three CPUs, so that two are on two nodes; a CPU of each is left to read.
# As many threads wherever it runs: sums of small batches depend on them in the last bit.
THREADS = {"threads_per_actor": 1}
SHARES = {"executor": "ray", "cpus_per_actor": 2.0, **THREADS}


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: None) -> str:
    """Where exports go."""
    return str(tmp_path) if request.param == "local" else "s3://bucket/faults"


class Nodes:
    """A cluster of two nodes, of which one can be lost."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        ray.init(address=self._cluster.address, log_to_driver=False)
        self._second: Any = None

    def complete(self) -> None:
        """Start the second node where it is missing; Ray does so in the main thread alone."""
        self._second = self._second or self._cluster.add_node(num_cpus=3)

    def lose(self) -> None:
        """Kill the second node and all that runs there."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def close(self) -> None:
        """End all of it."""
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(s3: None, no_ray_cluster: None) -> Iterator[Nodes]:
    """Begins after the server, so that its workers know the server's address; processes are killed by their names."""
    with closing(Nodes()) as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The cluster, with both of its nodes, and no actor of the test before."""
    cluster.complete()
    deadline = time.monotonic() + 60
    while of_ours(STAGES["actor"]):
        assert time.monotonic() < deadline, "an actor of the test before lives on"
        time.sleep(0.1)
    return cluster


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("faults")
    write_tar(folder / "a.tar", many(96))
    write_tar(folder / "b.tar", [*many(63, 200), ("bad.jpg", b"no photo")])
    return str(folder / "*.tar")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: str) -> Export:
    config = jobs_in(tmp_path_factory.mktemp("undisturbed"))(shards, compute=THREADS)
    export(config)
    return open_export(config.output.url)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Actors that this process starts are slow, and do nothing before there is this file."""
    fast = slow_down(str(tmp_path / "gate"))
    yield tmp_path / "gate"
    stages.Explainer = fast  # type: ignore[misc]


def check(config: Config, undisturbed: Export) -> None:
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    same(made, undisturbed)
    assert made.images.num_rows == 159
    assert made.failures["key"].to_pylist() == ["bad"]


def commits(config: Config) -> int:
    return len(Folder(config.output.url).names("parts/images"))


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_a_driver_killed_at_random_moments(
    tmp_path: Path, place: str, shards: str, job: Job, undisturbed: Export
) -> None:
    """The same command again and again, until it ends; its whole process group dies each time."""
    config = job(shards, output={"url": f"{place}/driver"}, compute={"executor": "ray", **THREADS})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", EXPORT, "export", str(file)]
    dice = random.Random(place)
    for killed in range(KILLS):
        before = commits(config)
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as driver:
            deadline = time.monotonic() + 240
            # Once in the middle of units, once at any moment after the lease was taken.
            while driver.poll() is None and time.monotonic() < deadline:
                if commits(config) > before + (2 if killed == 0 else 0):
                    break
                time.sleep(0.2)
            time.sleep(dice.uniform(0, 0.5))
            end(driver.pid)
        assert Folder(config.output.url).read("export.json") is None, "the driver was to be killed half-way"
    done = commits(config)
    assert 2 < done < 20
    # Whoever goes on need not be Ray.
    inline = config.model_copy(update={"compute": config.compute.model_copy(update={"executor": "inline"})})
    assert export(inline).new <= 160 - 2 * done
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
            alive = {kind: of_ours(name) for kind, name in names.items() if killed[kind] < most}
            kinds = [kind for kind, found in alive.items() if found]
            if kinds:
                kind = min(kinds, key=lambda kind: (killed[kind], kind))
                dice.choice(alive[kind]).send_signal(signal.SIGKILL)
                killed[kind] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@contextmanager
def watching(look: Callable[[list[int]], None]) -> Iterator[list[int]]:
    """Call something with the parents (raylets) of the living actors, again and again as long as the context lasts.

    Yields:
        how many actors there were each time.
    """
    counts: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            parents = [process.ppid() for process in of_ours(STAGES["actor"])]
            counts.append(len(parents))
            look(parents)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


# One place is enough where Ray repeats what was lost: the writes are those of the test above.
@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_workers_and_actors_killed_at_random_moments(
    place: str, shards: str, job: Job, gate: Path, undisturbed: Export
) -> None:
    """And, whatever room there is for more, no second actor beside the one of `actors_max`."""
    config = job(shards, output={"url": f"{place}/workers"}, compute={**SHARES, "actors_max": 1})
    begun = time.monotonic()
    with killing(STAGES, (0.05, 0.4), 3) as killed:

        def go_on(_: list[int]) -> None:
            if sum(killed.values()) >= 3 or time.monotonic() > begun + 240:
                gate.touch()

        with watching(go_on) as actors:
            summary = export(config)
    assert killed["actor"] >= 1
    assert sum(killed.values()) >= 3
    assert summary.new == 160
    assert max(actors) == 1
    check(config, undisturbed)


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_the_pool_grows_over_two_nodes_and_one_is_lost(
    place: str, shards: str, job: Job, nodes: Nodes, gate: Path, undisturbed: Export
) -> None:
    """One actor at first; as units wait for it, a second on the other node; then that node is killed."""
    config = job(shards, output={"url": f"{place}/nodes"}, compute={**SHARES, "actors_min": 1, "actors_max": 2})
    begun, lost = time.monotonic(), []

    def lose(parents: list[int]) -> None:
        if len(set(parents)) > 1 or time.monotonic() > begun + 240:
            gate.touch()
        if not lost and len(set(parents)) > 1 and commits(config) >= 4:
            nodes.lose()
            lost.append(commits(config))

    with watching(lose) as actors:
        export(config)
    assert next(filter(None, actors)) == 1
    assert max(actors) == 2
    assert lost, "the node was to be lost half-way"
    assert lost[0] < 20
    check(config, undisturbed)


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_vital_process_of_our_own_cluster_is_killed(name: str, tmp_path: Path, shards: str, job: Job) -> None:
    """Ray would end the driver after a minute, or wait; the message is ours, and the next run goes on."""
    config = job(shards, compute={"executor": "ray", **THREADS})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-c", EXPORT, "export", str(file)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as driver:
        deadline = time.monotonic() + 240
        while driver.poll() is None and commits(config) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        family = psutil.Process(driver.pid).children(recursive=True)
        [vital] = [process for process in family if process.name() == name]
        vital.send_signal(signal.SIGKILL)
        said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 7
    [line] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"the process {name} of the Ray cluster" in line
    assert "what is done is kept" in line
    assert "Traceback" not in said
    assert psutil.wait_procs(family, timeout=60)[1] == []
    inline = config.model_copy(update={"compute": config.compute.model_copy(update={"executor": "inline"})})
    assert export(inline).new <= 160 - 8
    assert verify_export(config.output.url) == []
