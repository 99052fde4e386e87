"""The Ray cluster: joining the one there is, or starting a private one on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private import ray_constants

from finer_ray.config import ComputeConfig


@dataclass(frozen=True)
class Resources:
    """What an actor gets: device, share of GPUs and CPUs, torch threads; and how many actors and decoding tasks there
    may be."""

    device: str
    gpus: float
    cpus: float
    threads: int | None
    actors_min: int
    actors_max: int
    decoders: int


@contextmanager
def connected() -> Iterator[None]:
    """A connection to Ray for a while: the cluster of RAY_ADDRESS (a submitted job has it), else one of our own.

    Our own listens on the loopback interface alone, has no dashboard, and ends with the run.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        _stay_on_loopback()
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _stay_on_loopback() -> None:
    """Make the servers of a cluster of our own listen on 127.0.0.1.

    Ray binds them to all interfaces unless the node's address is 127.0.0.1, and replaces that address by the
    machine's own wherever it is given; only this switch, meant for laptops, keeps it.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def resources(compute: ComputeConfig) -> Resources:
    """Actors for the cluster that is connected: one per GPU, or on CPUs one per two."""
    total = ray.cluster_resources()
    decoders = max(1, int(total.get("CPU", 1) / compute.decode_cpus))
    gpus, cpus = int(total.get("GPU", 0)), max(1, int(total.get("CPU", 1)))
    if compute.device == "cuda" or (compute.device == "auto" and gpus > 0):
        most = compute.actors_max or max(compute.actors_min, int(gpus / compute.gpus_per_actor), 1)
        return Resources(
            "cuda", compute.gpus_per_actor, compute.cpus_per_actor, None, compute.actors_min, most, decoders
        )
    most = compute.actors_max or max(compute.actors_min, cpus // 2)
    threads = compute.threads_per_actor or max(1, cpus // most)
    return Resources("cpu", 0, compute.cpus_per_actor, threads, compute.actors_min, most, decoders)
