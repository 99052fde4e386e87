"""Publication by real processes that are killed, or stand still and go on, at each of its steps.

Whatever happens between: what was published is never lost, and the next run makes the export of an undisturbed one.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import FinerRayError
from finer_ray.pipeline.export import export
from finer_ray.store import storage, tensors
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import jobs_in, write_tar
from tests.pipeline.exports import many, same

pytestmark = pytest.mark.faults
Job = Callable[..., Config]
# Steps of each kind that are tried, at random places: each takes ten seconds. 1000 are all that there are.
TRIAL_IMAGES = int(os.environ.get("FINER_RAY_STEPS", "1"))
LEASE = 1.0
CHANGES = ("write", "create", "replace", "move", "remove", "remove_files", "_overwrite")


def watch(step: Callable[[str], None]) -> None:
    """In this process: call something before and after each change of the store."""

    def wrap(owner: Any, name: str) -> None:
        done = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            step(f"before {name}")
            result = done(*args, **kwargs)
            step(f"after {name}")
            return result

        setattr(owner, name, watched)

    for name in CHANGES:
        wrap(Folder, name)
    wrap(tensors, "_write")
    wrap(tensors, "_create")


def run(config: Config, at: int, what: int, steps: Any) -> None:
    """A process: the export, which sends itself a signal at some step. Ends with the exit code of the command."""
    count = 0
    storage.LOCK_SECONDS = 0.5

    def step(name: str) -> None:
        nonlocal count
        # How often the lease is renewed depends on time.
        if threading.current_thread().name == "lease":
            return
        if steps is not None:
            steps.put(f"{name} {sum(1 for _ in Path(config.output.url).glob('parts/images/*.parquet'))}")
        if count == at:
            os.kill(os.getpid(), what)
        count += 1

    watch(step)
    try:
        export(config)
    except FinerRayError as error:
        print(error, file=sys.stderr)
        os._exit(error.exit_code)
    os._exit(0)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have the library imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finer_ray.pipeline.export", "tests.pipeline.test_publication"])
    return context


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, s3: None) -> str:
    """Where exports go."""
    return str(tmp_path / "out") if request.param == "local" else f"s3://bucket/{tmp_path.name}/out"


class Scene:
    """An input that changes once, and the states that an undisturbed export of it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_tar(folder / "old" / "a.tar", many(10))
        write_tar(folder / "old" / "b.tar", [*many(8, 20), ("bad.jpg", b"no photo")])
        shutil.copytree(folder / "old", folder / "new")
        write_tar(folder / "new" / "a.tar", many(6, 40))
        write_tar(folder / "new" / "c.tar", many(9, 60))
        self.config = self.job(str(folder / "undisturbed"))
        self.wanted: dict[str, Export] = {}
        self._steps: dict[str, list[str]] = {}
        for name in ("old", "new"):
            self.show(name)
            export(self.config)
            shutil.copytree(folder / "undisturbed", folder / f"undisturbed-{name}")
            self.wanted[name] = open_export(str(folder / f"undisturbed-{name}"))

    def show(self, name: str) -> None:
        """Let the input be the old or the new one, its files as they were made."""
        shutil.rmtree(self.folder / "in", ignore_errors=True)
        shutil.copytree(self.folder / name, self.folder / "in")

    def job(self, url: str) -> Config:
        """The job, to some place."""
        output = {"url": url, "lease_seconds": LEASE}
        shards = str(self.folder / "in" / "*.tar")
        return jobs_in(self.folder)(shards, input={"on_changed": "replace"}, output=output)

    def steps(self, stage: str, processes: Any) -> list[str]:
        """The steps of an undisturbed run to a local disk."""
        if stage not in self._steps:
            self._steps[stage] = steps_of(prepared(self, stage, str(self.folder / "counted")), processes)
        return self._steps[stage]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("publication"))


def prepared(scene: Scene, stage: str, url: str) -> Config:
    """The job, its input and its output as they are before a run of a stage: nothing, or the old input's export."""
    fs, root = fsspec.core.url_to_fs(url)
    if fs.exists(root):
        fs.rm(root, recursive=True)
    if stage == "new":
        fs.put(f"{scene.folder}/undisturbed-old/", f"{root}/", recursive=True)
    scene.show(stage)
    return scene.job(url)


def steps_of(config: Config, processes: Any) -> list[str]:
    """The steps of an undisturbed run."""
    steps = processes.SimpleQueue()
    process = processes.Process(target=run, args=(config, -1, signal.SIGKILL, steps))
    process.start()
    found = []
    while process.is_alive() or not steps.empty():
        if steps.empty():
            time.sleep(0.01)
        else:
            found.append(steps.get())
    process.join()
    assert process.exitcode == 0
    return found


def chosen(steps: list[str], seed: str, least: int = 0) -> list[int]:
    """Which of the steps from one on are tried."""
    numbers = range(least, len(steps))
    return sorted(random.Random(seed).sample(numbers, min(TRIAL_IMAGES, len(numbers))))


def publication(steps: list[str]) -> int:
    """The step at which publication begins: when the last unit is committed."""
    most = max(int(step.split()[-1]) for step in steps)
    return next(number for number, step in enumerate(steps) if int(step.split()[-1]) == most)


def start(processes: Any, config: Config, at: int = -1, what: int = signal.SIGKILL) -> Any:
    process = processes.Process(target=run, args=(config, at, what, None))
    process.start()
    return process


def code(process: Any) -> int:
    process.join(120)
    assert process.exitcode is not None
    return int(process.exitcode)


def stopped(process: Any) -> bool:
    """Wait until a process stands still; whether it does so before it ends."""
    while process.is_alive():
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
                return True
        time.sleep(0.01)
    return False


def check(config: Config, scene: Scene, stage: str) -> None:
    """The export is whole, and the undisturbed one's, and stays so."""
    assert verify_export(config.output.url) == []
    made, wanted = open_export(config.output.url), scene.wanted[stage]
    same(made, wanted)
    before = made.manifest.tables
    assert export(config).new == 0
    assert open_export(config.output.url).manifest.tables == before
    names = {name: Folder(config.output.url).names(name) for name in ("images", "metrics", "failures", "classes")}
    listed = {name: sorted(file.split("/")[1] for file in before[name]) for name in names}
    # Also for those who read by a glob.
    assert names == listed
    folder = Folder(config.output.url)
    assert folder.read("plan.json") is None
    assert not folder.names("parts/images")


def never_less(config: Config, scene: Scene) -> None:
    """What readers see now: the old state, or the new one, whole."""
    try:
        made = open_export(config.output.url)
    except FinerRayError:
        return
    rows = {name: export.images["row"].to_pylist() for name, export in scene.wanted.items()}
    assert made.images["row"].to_pylist() in rows.values()


@pytest.mark.parametrize("stage", ["old", "new"])
def test_a_run_killed_at_any_step(url: str, stage: str, scene: Scene, processes: Any) -> None:
    steps = scene.steps(stage, processes)
    assert len(steps) > 40
    for at in chosen(steps, f"killed {stage}"):
        config = prepared(scene, stage, url)
        killed = code(start(processes, config, at))
        # On S3 some steps of local disks are none.
        assert killed == -signal.SIGKILL or (url.startswith("s3") and killed == 0)
        never_less(config, scene)
        export(config)
        check(config, scene, stage)


@pytest.mark.parametrize("stage", ["old", "new"])
def test_a_run_that_stood_still_while_another_came_and_ended(
    url: str, stage: str, scene: Scene, processes: Any
) -> None:
    steps = scene.steps(stage, processes)
    for at in chosen(steps, f"stopped {stage}"):
        config = prepared(scene, stage, url)
        first = start(processes, config, at, signal.SIGSTOP)
        still = stopped(first)
        assert still or url.startswith("s3")
        if still:
            time.sleep(LEASE + 0.1)
        second = code(start(processes, config))
        # It may find the first within the moment in which it compares and replaces, which must end first.
        assert second in (0, 5), steps[at]
        if second == 0:
            assert verify_export(url) == [], steps[at]
            same(open_export(url), scene.wanted[stage])
        if still:
            os.kill(first.pid, signal.SIGCONT)
        assert code(first) in (0, 5), steps[at]
        never_less(config, scene)
        if second == 0:
            # Nothing that was published may be lost, not even until the next run.
            assert verify_export(url) == [], steps[at]
            same(open_export(url), scene.wanted[stage])
        export(config)
        check(config, scene, stage)


@pytest.mark.parametrize("stage", ["old", "new"])
def test_two_runs_that_both_stand_still_in_publication(
    stage: str, scene: Scene, processes: Any, tmp_path: Path
) -> None:
    """The second takes over, stands still or is killed, too; the first goes on, then the second."""
    steps = scene.steps(stage, processes)
    first_step = publication(steps)
    dice = random.Random(stage)
    for at in chosen(steps, f"both {stage}", first_step):
        for what in (signal.SIGSTOP, signal.SIGKILL):
            config = prepared(scene, stage, str(tmp_path / "out"))
            first = start(processes, config, at, signal.SIGSTOP)
            assert stopped(first)
            time.sleep(LEASE + 0.1)
            # It has less to do: the steps from the plan's on.
            second = start(processes, config, dice.randrange(2, len(steps) - first_step), what)
            stopped(second)
            os.kill(first.pid, signal.SIGCONT)
            assert code(first) in (0, 5), steps[at]
            never_less(config, scene)
            if second.is_alive():
                os.kill(second.pid, signal.SIGCONT)
            assert code(second) in (0, 5, -signal.SIGKILL), steps[at]
            never_less(config, scene)
            export(config)
            check(config, scene, stage)
