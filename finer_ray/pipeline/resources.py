"""Resources: what an explaining process gets, and how many processes each stage may have."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import ray
import torch

from finer_ray.config.schema import ComputeConfig

# Writing takes little of a CPU, but a process, whose start takes seconds: no more than keep up with the actors.
WRITERS_PER_GPU, WRITERS_PER_CPU_ACTOR = 8, 1
# While one unit's last batch is worked on, the next one's first is on its way.
UNITS_PER_GPU_ACTOR = 2


@dataclass(frozen=True)
class Resources:
    """What an actor gets, and how many processes there may be.

    Attributes:
        device: cpu or cuda, of the model.
        gpus, cpus: shares that Ray reserves for an actor.
        threads: of torch on CPUs; None leaves them as they are.
        units: that an actor explains at a time.
        actors_min, actors_max: actors.
        decoders, writers: tasks that load, and that write, at a time.
    """

    device: str
    gpus: float
    cpus: float
    threads: int | None
    units: int
    actors_min: int
    actors_max: int
    decoders: int
    writers: int


def cluster_resources(compute: ComputeConfig) -> Resources:
    """Actors for the cluster that is connected: one per GPU, or on CPUs one per two."""
    return shared(compute, ray.cluster_resources())


def own_resources(compute: ComputeConfig) -> Resources:
    """One actor, with all of this machine, in this process."""
    total = {"CPU": float(cpu_count()), "GPU": float(torch.cuda.device_count())}
    return shared(compute.model_copy(update={"actors_min": 1, "actors_max": 1}), total)


def cpu_count() -> int:
    """CPUs that this process may use, which in containers are not all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared(compute: ComputeConfig, total: Mapping[str, float]) -> Resources:
    """How the job's processes share what there is.

    Args:
        compute: the section of the config.
        total: of the cluster or machine, by Ray's names: CPU, GPU.
    """
    gpus, cpus = int(total.get("GPU", 0)), max(1, int(total.get("CPU", 1)))
    on_gpu = compute.device == "cuda" or (compute.device == "auto" and gpus > 0)
    fitting = int(gpus / compute.gpus_per_actor) if on_gpu else cpus // 2
    most = compute.actors_max or max(compute.actors_min, fitting, 1)
    # CUDA graphs are captured and run by one thread.
    usual = UNITS_PER_GPU_ACTOR if on_gpu and not isinstance(compute.compile, str) else 1
    return Resources(
        device="cuda" if on_gpu else "cpu",
        gpus=compute.gpus_per_actor if on_gpu else 0,
        cpus=compute.cpus_per_actor,
        threads=None if on_gpu else compute.threads_per_actor or max(1, cpus // most),
        units=compute.units_per_actor or usual,
        actors_min=compute.actors_min,
        actors_max=most,
        decoders=max(1, int(total.get("CPU", 1) / compute.decode_cpus)),
        writers=most * (WRITERS_PER_GPU if on_gpu else WRITERS_PER_CPU_ACTOR),
    )
