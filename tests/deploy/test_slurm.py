"""deploy/slurm/export.sbatch: what it starts, passes on and asks for, by stand-ins for Slurm; and on Slurm itself."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray.util import get_node_ip_address

from finer_ray.config.schema import Config
from finer_ray.store.reading import open_export
from finer_ray.store.storage import Folder
from finer_ray.store.verify import verify_export
from tests.conftest import write_tar
from tests.pipeline.exports import many

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "export.sbatch"
NODES = Path(__file__).with_name("slurm_nodes.sh")
PLAIN = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "3"}

# What `ray symmetric-run` does, which tells nodes apart by their addresses, for two nodes on one machine: it starts a
# cluster, and a command that is told nothing of it.
RAY = """
import subprocess, sys
from ray.cluster_utils import Cluster
options, command = sys.argv[2 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
port = options[options.index("--address") + 1].rpartition(":")[2]
cpus = int(next(word.partition("=")[2] for word in options if word.startswith("--num-cpus=")))
head = {"num_cpus": cpus, "gcs_server_port": int(port), "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
for _ in range(int(options[options.index("--min-nodes") + 1]) - 1):
    cluster.add_node(num_cpus=cpus)
code = subprocess.run(command).returncode
cluster.shutdown()
sys.exit(code)
"""
# Units take their time, and each tells on which node it was.
FINER_RAY = """
import time
from pathlib import Path
from finer_ray.pipeline import stages
class Marking(stages.Explainer):
    def __call__(self, table):
        import ray
        (Path(MARKS) / ray.get_runtime_context().get_node_id()).touch()
        time.sleep(0.5)
        return super().__call__(table)
stages.Explainer = Marking
from finer_ray.__main__ import main
main()
"""


@pytest.fixture
def bin(tmp_path: Path) -> Path:
    """A folder of commands that come before all others: Slurm's, of one node, and what is written to it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command(folder, "srun", 'exec "$@"')
    command(folder, "squeue", 'echo "${STATE-running}"')
    command(folder, "scontrol", f'echo "$@" >>"{tmp_path}/scontrol.log"')
    return folder


def command(folder: Path, name: str, text: str) -> None:
    """Make a command of a few lines of shell."""
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


def environment(bin: Path, **more: str) -> dict[str, str]:
    path = f"{bin}:{os.environ['PATH']}"
    others = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "RAY_ADDRESS"))}
    return {**others, **PLAIN, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def asked(tmp_path: Path) -> str:
    log = tmp_path / "scontrol.log"
    return log.read_text() if log.exists() else ""


@pytest.fixture
def shell(bin: Path) -> Path:
    """Stand-ins without Ray: the command alone, which tells what it was given and ends as CODE says."""
    command(bin, "ray", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    command(bin, "finer-ray", 'echo "given: $*"; env; exit "$CODE"')
    return bin


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, 0, False), (2, 0, False), (4, 0, False), (143, 9, True), (5, 0, True), (6, 2, True), (7, 3, False)],
)
def test_the_job_comes_back_where_that_may_help(
    code: int, restarts: int, again: bool, shell: Path, tmp_path: Path
) -> None:
    env = environment(shell, CODE=str(code), SLURM_RESTART_COUNT=str(restarts))
    done = subprocess.run(["bash", SCRIPT, "job.yaml"], env=env, cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == code
    assert asked(tmp_path) == ("requeue 7\n" if again else "")


def test_a_job_that_was_cancelled_stays_so(shell: Path, tmp_path: Path) -> None:
    env = environment(shell, CODE="143", STATE="")
    done = subprocess.run(["bash", SCRIPT, "job.yaml"], env=env, cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 143
    assert asked(tmp_path) == ""


def test_what_the_command_is_given(shell: Path, tmp_path: Path) -> None:
    env = environment(shell, CODE="0", HEAD="10.1.2.3:6379", SIF="finer.sif")
    command(shell, "apptainer", '[ "$1 $2 $3" = "exec --nv finer.sif" ] && shift 3 && echo contained && exec "$@"')
    words = ["job.yaml", "--set", "saliency.gamma=0.5", "--set", "output.url=a folder"]
    done = subprocess.run(["bash", SCRIPT, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert "contained" in lines
    assert f"given: export {' '.join(words)}" in lines
    assert {"RAY_ADDRESS=10.1.2.3:6379", "HF_HUB_OFFLINE=1", "RAY_AUTH_MODE=token"} <= set(lines)
    tokens = [line for line in lines if re.fullmatch("RAY_AUTH_TOKEN=[0-9a-f]{64}", line)]
    again = subprocess.run(["bash", SCRIPT, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert tokens
    assert tokens[0] not in again.stdout
    # By Slurm, and by nothing that it leaves behind.
    assert done.stderr == ""


def test_what_slurm_is_asked_for() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", SCRIPT.read_text(), re.MULTILINE))
    shell, name, seconds = re.fullmatch(r"(B):(TERM)@(\d+)", asked["signal"]).groups()  # type: ignore[union-attr]
    # Ray's own end takes up to 16 s on each node, and other nodes notice after 15 s.
    assert (shell, name, int(seconds) >= 60) == ("B", "TERM", True)
    assert {"requeue", "exclusive"} <= asked.keys()
    # Ray on a node is told of the CPUs that one task gets.
    assert asked["ntasks-per-node"] == "1"
    assert subprocess.run(["bash", "-n", SCRIPT], check=False).returncode == 0


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_two_nodes_do_the_work_and_the_time_is_up(
    bin: Path, tmp_path: Path, job: Callable[..., Config], free_port: int
) -> None:
    """TERM ends a run of two nodes in order; the same submission goes on."""
    (tmp_path / "nodes").mkdir()
    for name, text in (("ray", RAY), ("finer-ray", FINER_RAY.replace("MARKS", repr(str(tmp_path / "nodes"))))):
        (bin / f"{name}_program.py").write_text(text)
        command(bin, name, f'exec {sys.executable} "{bin}/{name}_program.py" "$@"')
    write_tar(tmp_path / "a.tar", many(160))
    shares = {"executor": "ray", "device": "cpu", "actors_min": 2, "cpus_per_actor": 2.0, "threads_per_actor": 1}
    config = job(str(tmp_path / "a.tar"), compute=shares)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    env = environment(bin, HEAD=f"{get_node_ip_address()}:{free_port}", RAY_USAGE_STATS_ENABLED="0")
    out, log = Folder(config.output.url), tmp_path / "log"

    def submit() -> "subprocess.Popen[bytes]":
        with log.open("w") as file:
            return subprocess.Popen(["bash", SCRIPT, "job.yaml"], env=env, cwd=tmp_path, stdout=file, stderr=file)

    with submit() as batch:
        try:
            deadline = time.monotonic() + 120
            while len(out.names("parts/images")) < 3 or len(list((tmp_path / "nodes").iterdir())) < 2:
                assert batch.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            batch.send_signal(signal.SIGTERM)
            assert batch.wait(60) == 143, log.read_text()
        finally:
            for process in psutil.Process(batch.pid).children(recursive=True) if batch.poll() is None else []:
                process.kill()
            batch.kill()
    kept = len(out.names("parts/images"))
    assert re.search(r"stopped; \d+ of 160 images kept; the same command goes on", log.read_text())
    assert asked(tmp_path) == "requeue 7\n"
    assert 3 <= kept < 20
    with submit() as batch:
        assert batch.wait(120) == 0, log.read_text()
    assert asked(tmp_path) == "requeue 7\n"
    (new,) = re.findall(r"160 images explained, 0 failures, (\d+) of them in this run", log.read_text())
    assert int(new) == 160 - 8 * kept
    assert "warning: Slurm" not in log.read_text()
    assert verify_export(config.output.url) == []
    assert open_export(config.output.url).images.num_rows == 160


@pytest.fixture
def in_slurm(tmp_path: Path) -> Iterator[list[str]]:
    """Slurm itself, of two nodes: words before a command that is to run on the first."""
    needed = ("slurmctld", "slurmd", "munged", "unshare", "nsenter", "ip")
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge iproute2)")
    apart = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no namespaces")
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    with subprocess.Popen([*apart, "sh", NODES, slurm], stderr=(slurm / "log").open("w")) as cluster:
        try:
            deadline = time.monotonic() + 60
            while True:
                assert cluster.poll() is None, (slurm / "log").read_text()
                assert time.monotonic() < deadline, (slurm / "log").read_text()
                time.sleep(0.5)
                family = psutil.Process(cluster.pid).children(recursive=True)
                inner = [found.pid for found in family if found.name() == "sleep"]
                inside = [["nsenter", "--target", str(pid), "--all", f"--wd={tmp_path}"] for pid in inner]
                for enter in inside:
                    asked = [*enter, "env", f"SLURM_CONF={slurm}/slurm.conf"]
                    host = subprocess.run([*enter, "hostname"], capture_output=True, text=True, check=False).stdout
                    nodes = subprocess.run([*asked, "sinfo", "-hNo", "%t"], capture_output=True, text=True, check=False)
                    if host == "a\n" and nodes.stdout.split() == ["idle", "idle"]:
                        yield asked
                        return
        finally:
            cluster.kill()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_slurm_itself(in_slurm: list[str], tmp_path: Path, job: Callable[..., Config]) -> None:
    """Both nodes of a real allocation are joined, and the job's exit code is the export's."""
    write_tar(tmp_path / "a.tar", many(24))
    config = job(str(tmp_path / "a.tar"), compute={"executor": "ray", "device": "cpu"})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    path = f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}"
    sbatch = [
        *in_slurm,
        path,
        f"PYTHONPATH={ROOT}",
        "sbatch",
        "--wait",
        "--cpus-per-task=2",
        "--output=log",
        str(SCRIPT),
    ]
    done = subprocess.run([*sbatch, "job.yaml"], capture_output=True, text=True, timeout=240, check=False)
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0, log
    assert "24 images explained, 0 failures" in log
    assert "On worker node. Connecting to Ray cluster at 10.77.0.1:6379" in log
    assert "warning: Slurm" not in log
