"""The Ray cluster: joining the one there is, or starting a private one on this machine."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray._private import ray_constants
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from finer_ray.config.schema import ComputeConfig
from finer_ray.errors import ConfigError, FinerRayError, WorkerError
from finer_ray.lazy import torch
from finer_ray.library_log import error_output
from finer_ray.pipeline.progress import announce
from finer_ray.plugins import VARIABLE

# Two clusters that start on one machine at the same moment may choose the same ports; the one that loses tries again.
STARTS = 3
OUR_OWN = "local"
# Without any of these a machine has no GPU that torch could use: NVIDIA's driver, on a Jetson, AMD's, and Windows' own.
GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
ADVICE = (
    "unset it to use this machine, or give HOST:6379 of a running cluster (the dashboard's http address is for "
    "`ray job submit`)"
)
# A process that is gone, told from an error that it raised.
DIED = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, LocalRayletDiedError)
# Of the cluster that RAY_ADDRESS names: attempts, seconds for each, and between them.
CONNECTS, CONNECT_SECONDS, CONNECT_PAUSE = 3, 5.0, 1.0
# How a client of HTTP/2, and so of gRPC, begins (RFC 9113, section 3.4): a fixed text and a frame of no settings.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_HEADER, SETTINGS_FRAME = 9, 4
# Seconds without the control process (GCS) of a cluster after which a run ends; until then it may come back. Ray ends
# the process after 60, with the exit code of an unknown error.
LOST_SECONDS, WATCH_SECONDS = 45.0, 2.0
# Processes without which a cluster is none; of our own nothing starts them again.
VITAL = ("gcs_server", "raylet")
# Ray wraps an error a few times; beyond this there is a loop.
MAX_DEPTH = 16


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the FinerRayError that a task raised as itself, whatever Ray has wrapped around it.

    Raises:
        WorkerError: processes died, and Ray does not repeat their work.
    """
    try:
        yield
    except Exception as error:
        _clear_frames(error)
        known = _known_cause(error)
        if known is None and isinstance(error, DIED):
            known = WorkerError(
                "a process of the cluster died, and Ray cannot repeat its work; what is done is kept. Its last words "
                "are in Ray's logs (on its node: /tmp/ray/session_latest/logs, files worker-*.out and *.err); a lost "
                "GPU, memory that ran out and a crash in a library end a process so. "
                f"Ray says: {str(error).strip().partition(chr(10))[0]}"
            )
        if known is None:
            raise
        raise known from error


def _clear_frames(error: BaseException) -> None:
    """Drop what the frames of a failed run hold: blocks, for whose sake Ray keeps actors, whose CPUs a next run in this
    process needs. Whoever keeps the exception (a logging handler, a cycle) would keep them too."""
    here: BaseException | None = error
    for _ in range(MAX_DEPTH):
        if here is None:
            return
        traceback.clear_frames(here.__traceback__)
        here = here.__cause__ or here.__context__


def _known_cause(error: BaseException) -> FinerRayError | None:
    """The error of ours that this one is, or wraps; Ray derives classes from it, which are not meant."""
    here: BaseException | None = error
    for _ in range(MAX_DEPTH):
        for found in (here, getattr(here, "cause", None)):
            if isinstance(found, FinerRayError) and type(found).__module__.startswith("finer_ray"):
                return found
        inner = getattr(here, "cause", None)
        here = inner if isinstance(inner, BaseException) else here and (here.__cause__ or here.__context__)
    return None


@contextmanager
def connected() -> Iterator[None]:
    """A connection to Ray for a while: the cluster of RAY_ADDRESS (a submitted job has it), else one of our own.

    Our own listens on the loopback interface alone, has no dashboard, and ends with the run.

    Raises:
        ConfigError: RAY_ADDRESS names what no job can join. WorkerError: no cluster answers there, or none of our own
            can be started.
    """
    if ray.is_initialized():
        yield
        return
    announce("starting Ray")
    address = os.environ.get("RAY_ADDRESS") or OUR_OWN
    # Ray replaces it by one that dumps its stack and aborts the process after 3 s.
    handler = signal.getsignal(signal.SIGTERM)
    if address == OUR_OWN:
        _warn_of_idle_nodes()
        _start_our_own()
    else:
        _join(address)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    over = threading.Event()
    watch = partial(_watch_our_own if address == OUR_OWN else _watch, ray.get_runtime_context().gcs_address, over)
    threading.Thread(target=watch, daemon=True, name="cluster").start()
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _kill_at_shutdown()
        raise
    finally:
        over.set()
        ray.shutdown()


def _gpu_count() -> int:
    """GPUs as torch counts them, which is not imported where the machine has no driver of any."""
    return torch.cuda.device_count() if "torch" in sys.modules or any(map(os.path.exists, GPU_DRIVERS)) else 0


def _kill_at_shutdown() -> None:
    """Have Ray's shutdown kill the processes that it started, instead of waiting a second for them to end in order."""
    node = ray._private.worker._global_node
    if node is not None:
        node.kill_all_processes = lambda **_: _kill_our_own()


def check_address(address: str) -> None:
    """Whether RAY_ADDRESS names something that a job can join, and something answers there.

    Raises:
        ConfigError: the dashboard, Ray's client, or what is not known. WorkerError: nothing answers.
    """
    if "://" in address:
        why = (
            "Ray Data does not work through Ray's client"
            if address.startswith("ray://")
            else "no cluster answers there"
        )
        raise ConfigError(f"RAY_ADDRESS is {address}: {why}; {ADVICE}")
    try:
        _reach(get_ray_address_from_environment(address, None))
    except (OSError, ValueError) as error:
        raise WorkerError(f"RAY_ADDRESS is {address}: no cluster answers there; {ADVICE}") from error


def _join(address: str) -> None:
    """Connect to the cluster that RAY_ADDRESS names, once something answers there.

    Ray by itself waits for minutes, and ends with its own log and a traceback.

    Raises:
        ConfigError, WorkerError: by `check_address`, or where what answers cannot be joined.
    """
    check_address(address)
    _keep_token_private()
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=_plugins())
    except Exception as error:
        raise WorkerError(
            f"RAY_ADDRESS is {address}: what answers there cannot be joined; {ADVICE}. A cluster with a token needs "
            f"RAY_AUTH_MODE=token (see SECURITY.md). Ray says: {error}"
        ) from error


def _plugins() -> dict[str, Any] | None:
    """What processes of a cluster that others have started must be told to know the plugins."""
    named = os.environ.get(VARIABLE)
    return {"env_vars": {VARIABLE: named}} if named else None


def _reach(address: str) -> None:
    """Raises OSError or ValueError where no gRPC server, as a cluster's control process is, answers at HOST:PORT."""
    for attempt in range(1, CONNECTS + 1):
        try:
            with _connect(address) as connection:
                _greet(connection)
            return
        except OSError:
            if attempt == CONNECTS:
                raise
            time.sleep(CONNECT_PAUSE)


def _greet(connection: socket.socket) -> None:
    """Raises OSError where what answers does not speak HTTP/2: Ray would ask it again and again, for minutes."""
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    connection.sendall(HTTP2_PREFACE)
    answer = connection.recv(FRAME_HEADER)
    # A server begins with its settings, too.
    if len(answer) < FRAME_HEADER or answer[3] != SETTINGS_FRAME:
        raise ConnectionError("what answers is no gRPC server")


def _watch(gcs: str, over: threading.Event) -> None:
    """End this process, in plain words, when the cluster's control process has been gone for too long.

    Nothing else ends it before Ray does: calls into Ray wait for it to come back, the one that disconnects too.
    """
    since: float | None = None
    while not over.wait(WATCH_SECONDS):
        try:
            _connect(gcs).close()
            since = None
        except OSError:
            since = since or time.monotonic()
            if time.monotonic() - since > LOST_SECONDS:
                _give_up(gcs, VITAL[0])


def _watch_our_own(gcs: str, over: threading.Event) -> None:
    """The same of a cluster of our own, as soon as one of its vital processes has died."""
    node = ray._private.worker._global_node
    while not over.wait(WATCH_SECONDS):
        for name, _ in node.dead_processes():
            if name in VITAL and not over.is_set():
                _give_up(gcs, name)


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS)


def _give_up(gcs: str, name: str) -> NoReturn:
    error = WorkerError(
        f"the process {name} of the Ray cluster at {gcs} is gone; what is done is kept. Its last words are in Ray's "
        f"logs (on its node: /tmp/ray/session_latest/logs/{name}.*); the same command goes on"
    )
    print(f"error: {error}", file=error_output(), flush=True)
    with suppress(Exception):
        _kill_our_own()
    os._exit(error.exit_code)


def _kill_our_own() -> None:
    """Kill what this process has started of Ray, which is nothing where it has joined another's cluster.

    The raylet's children go too: its agents wait for a control process that is gone.
    """
    node = ray._private.worker._global_node
    children: list[str] = []
    for info in node.all_processes.get("raylet", []):
        pid = info.process.pid
        with suppress(OSError):
            children += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    type(node).kill_all_processes(node, check_alive=False, allow_graceful=False)
    for child in children:
        with suppress(OSError):
            os.kill(int(child), signal.SIGKILL)


def _warn_of_idle_nodes() -> None:
    """Say so where Slurm has given several nodes, and a Ray of our own will use one of them."""
    # A step may have fewer than its job.
    nodes = os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES", "1")
    if nodes not in ("", "1"):
        print(
            f"warning: Slurm has given {nodes} nodes, and this run uses one of them: RAY_ADDRESS names no cluster. "
            "deploy/slurm/export.sbatch starts Ray on all of them (ray symmetric-run) and sets it",
            file=error_output(),
            flush=True,
        )


def _start_our_own() -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _stay_on_loopback()
    _keep_token_private(create=True)
    # Ray by itself asks NVIDIA's management library how many GPUs there are, which some machines lack.
    own: Any = {"address": OUR_OWN, "include_dashboard": False, "num_gpus": _gpu_count()}
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == STARTS:
                raise WorkerError(
                    f"Ray could not be started on this machine, in {STARTS} attempts; compute.executor: inline does "
                    f"without it. Its logs are in /tmp/ray/session_latest/logs. Ray says: {error}"
                ) from error


def _keep_token_private(create: bool = False) -> None:
    """Make the token of Ray's clusters readable by its owner alone, before Ray reads it.

    Args:
        create: it where there is none, as Ray does for a cluster of its own, but with whatever permissions the umask
            leaves.
    """
    place = Path.home() / ".ray" / "auth_token"
    # Where the home cannot be written, Ray says what it lacks.
    with suppress(OSError):
        if create and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not _token_is_elsewhere():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError), open(place, "x", opener=_private) as file:
                file.write(secrets.token_hex(32))
        place.chmod(0o600)


def _token_is_elsewhere() -> bool:
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _stay_on_loopback() -> None:
    """Make the servers of a cluster of our own listen on 127.0.0.1.

    Ray binds them to all interfaces unless the node's address is 127.0.0.1, and replaces that address by the
    machine's own wherever it is given; only this switch, meant for laptops, keeps it.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def joins_others() -> bool:
    """Whether a job on Ray runs on a cluster that is there already, and not on one of our own on this machine."""
    return ray.is_initialized() or os.environ.get("RAY_ADDRESS", OUR_OWN) not in ("", OUR_OWN)


def on_each_node(question: Callable[[], Any]) -> list[Any]:
    """A question's answers from the connected cluster's nodes that have CPUs to give, as a task on each."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    ask = ray.remote(num_cpus=0)(_answer)
    with plain_errors():
        found: list[Any] = ray.get(
            [
                ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)).remote(question)
                for node in nodes
            ]
        )
    return found


def _answer(question: Callable[[], Any]) -> Any:
    """A question, as a Ray task."""
    return question()


def check_device(compute: ComputeConfig) -> None:
    """Whether the GPUs that are asked for are here, where the work will be; a cluster may yet start nodes with some.

    Raises:
        ConfigError: they are not, and Ray would wait for them forever.
        ConfigError, WorkerError: RAY_ADDRESS names what no job can join, by `check_address`.
    """
    inline = compute.executor == "inline"
    address = os.environ.get("RAY_ADDRESS") or OUR_OWN
    if not inline and address != OUR_OWN and not ray.is_initialized():
        check_address(address)
    if compute.device != "cuda" or (not inline and joins_others()):
        return
    needed, found = 1.0 if inline else compute.gpus_per_actor * compute.actors_min, torch.cuda.device_count()
    if found < needed:
        raise ConfigError(
            f"compute.device: cuda needs {needed:g} GPU (gpus_per_actor times actors_min), and PyTorch finds {found} "
            "on this machine; take device: auto or cpu, or a machine or cluster that has them"
        )
