"""Executors: what a job does is declared as stages and calls; here they run, in this process or on a Ray cluster.

Both forms do the same work in the same order, one unit of work after the other or many side by side.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy

from finer_ray.config.schema import ComputeConfig
from finer_ray.errors import WorkerError
from finer_ray.pipeline.batch_size import is_lost
from finer_ray.pipeline.cluster import connected, joins_others, on_each_node, plain_errors
from finer_ray.pipeline.cluster_metrics import Timed, count_images
from finer_ray.pipeline.resources import Resources, cluster_resources, own_resources
from finer_ray.pipeline.source import UnitSource
from finer_ray.pipeline.stage import LOST, Stage
from finer_ray.pipeline.unit_tables import table_bytes
from finer_ray.store.manifest import Unit

# So many calls are made in this process before a cluster is started or asked for them.
MAX_LOCAL_CALLS = 16
# Calls that are under way at a time, so that the driver's memory does not grow with their number.
MAX_PENDING_CALLS = 256
# Units that one Ray Data pipeline is given: it holds a task for each from the beginning.
MAX_UNITS = 16_384
# Units in the object store for each that may be worked on: enough that no stage waits for another, however many follow.
# With 2, loading processes stood still long enough for Ray to end them, and their start took as long as the work.
STORED_UNITS = 8
# Processes that a unit may end by losing them their GPU, or that may end so in a row, for each that there may be; with
# which exit code, and after how long.
MAX_LOSSES, LOST_CODE, LOST_SECONDS = 3, 75, 1.0


class Shared(Protocol):
    """An object that many processes use, and that is sent to each once."""

    def get(self) -> Any:
        """The object."""


class Executor(AbstractContextManager[Any], Protocol):
    """Runs calls and stages; a context, at whose end what it has started is gone."""

    def resources(self, compute: ComputeConfig) -> Resources:
        """What a job's processes get here."""

    def runs_on_cpus(self, compute: ComputeConfig, check: Callable[[], bool]) -> bool:
        """Whether a job's model will run on CPUs, and all machines that it may run on pass a check.

        Args:
            compute: the section of the job's config.
            check: is called on each of them.
        """

    def share(self, value: Any) -> Shared:
        """An object for processes that use it."""

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        cpus: float = 1.0,
        gpus: float = 0.0,
        max_local: int = MAX_LOCAL_CALLS,
    ) -> Iterator[Any]:
        """A function of each item, in order, as the built-in map; calls may run elsewhere and side by side.

        Args:
            function: of one item.
            items: all of them.
            cpus, gpus: shares that are reserved for a call.
            max_local: calls that are made in this process where there are no more.

        Raises:
            FinerRayError: the first that a call raised.
        """

    def run(self, units: Sequence[Unit], stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
        """Take units through all stages; lines of the last stage's tables, unit by unit as they get done.

        Raises:
            FinerRayError: the first that a stage raised.
        """


def executor_of(compute: ComputeConfig, export: str = "") -> Executor:
    """The executor that `compute.executor` names.

    Args:
        compute: the section of the job's config.
        export: URL of what it makes, by which a cluster's metrics tell jobs apart.
    """
    return InlineExecutor() if compute.executor == "inline" else RayExecutor(export)


@dataclass(frozen=True)
class LocalObject:
    """An object of this process, shared with nobody else."""

    value: Any

    def get(self) -> Any:
        """The object."""
        return self.value


class InlineExecutor(ExitStack):
    """Everything in this process, one call after the other."""

    def resources(self, compute: ComputeConfig) -> Resources:
        """One actor, with all of this machine."""
        return own_resources(compute)

    def runs_on_cpus(self, compute: ComputeConfig, check: Callable[[], bool]) -> bool:
        """Of this machine."""
        return self.resources(compute).device == "cpu" and check()

    def share(self, value: Any) -> LocalObject:
        """The object itself."""
        return LocalObject(value)

    def map(self, function: Callable[[Any], Any], items: Sequence[Any], *_: float, **__: float) -> Iterator[Any]:
        """The built-in map."""
        return map(function, items)

    def run(self, units: Sequence[Unit], stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
        """Each unit through all stages before the next one."""
        calls = [partial(stage.checked, stage.build()) for stage in stages]
        for unit in units:
            table: Any = unit
            for call in calls:
                table = call(table)
            yield from table.to_pylist()


@dataclass(frozen=True)
class StoredObject:
    """An object in Ray's object store."""

    ref: Any

    def get(self) -> Any:
        """A copy of the object, for this process."""
        return ray.get(self.ref)


class RayExecutor(ExitStack):
    """On the cluster of RAY_ADDRESS, else on one of our own, which is started once there is enough to do.

    Args:
        export: URL of what it makes, by which the cluster's metrics tell jobs apart.
    """

    def __init__(self, export: str = "") -> None:
        super().__init__()
        self._export = export

    def connect(self) -> None:
        """Connect to Ray, until the end of this context; a second time does nothing."""
        self.enter_context(connected())

    def resources(self, compute: ComputeConfig) -> Resources:
        """Shares of the cluster."""
        self.connect()
        return cluster_resources(compute)

    def runs_on_cpus(self, compute: ComputeConfig, check: Callable[[], bool]) -> bool:
        """Of the cluster's nodes; a cluster of our own, which is this machine, is not started for it."""
        if not joins_others():
            return own_resources(compute).device == "cpu" and check()
        return self.resources(compute).device == "cpu" and all(on_each_node(check))

    def share(self, value: Any) -> StoredObject:
        """A reference to a copy in the object store."""
        self.connect()
        return StoredObject(ray.put(value))

    def map(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        cpus: float = 1.0,
        gpus: float = 0.0,
        max_local: int = MAX_LOCAL_CALLS,
    ) -> Iterator[Any]:
        """Ray tasks; so few calls as `max_local` are made in this process."""
        if len(items) <= max_local:
            yield from map(function, items)
            return
        self.connect()
        call = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(_call).remote
        shared, pending = ray.put(function), deque[Any]()
        with plain_errors():
            for item in items:
                pending.append(call(shared, item))
                if len(pending) > MAX_PENDING_CALLS:
                    yield ray.get(pending.popleft())
            while pending:
                yield ray.get(pending.popleft())

    def run(self, units: Sequence[Unit], stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
        """A Ray Data pipeline, in which a block is a unit from end to end.

        Raises:
            WorkerError: processes die again and again at a unit.
        """
        self.connect()
        losses, by_number = _Losses(stages), {unit.number: unit for unit in units}
        left = list(units)
        while left:
            wave, left = left[:MAX_UNITS], left[MAX_UNITS:]
            for line in _lines(_pipeline(wave, stages, self._export)):
                if "lost_unit" in line:
                    losses.add(line["lost_unit"], line["reason"])
                    left.append(by_number[line["lost_unit"]])
                else:
                    losses.in_a_row = 0
                    count_images(line, self._export)
                    yield line


class _Losses:
    """How often processes have lost their GPU: at each unit, and one after the other with no unit done between."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._by_unit, self.in_a_row = Counter[int](), 0
        self._most = MAX_LOSSES * max((stage.processes[1] for stage in stages if stage.keeps), default=1)

    def add(self, unit: int, reason: str) -> None:
        """Count one. Raises WorkerError where to go on does not help."""
        self._by_unit[unit] += 1
        self.in_a_row += 1
        count = max(self._by_unit[unit], self.in_a_row)
        if self._by_unit[unit] > MAX_LOSSES or self.in_a_row > self._most:
            raise WorkerError(
                f"{count} processes have lost their GPU, the last at unit {unit}; what is done is kept. Look at the "
                f"GPU's driver and memory, or leave the shard out. torch says: {reason}"
            )


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    """A call, as a Ray task."""
    return function(item)


def _lines(dataset: Dataset) -> Iterator[dict[str, Any]]:
    with plain_errors():
        # Not `iter_rows`, which tells of each unit when the next one is done, and after a failure leaves a thread
        # behind that holds blocks, for whose sake Ray may keep the actor and its CPUs.
        for bundle in dataset.iter_internal_ref_bundles():
            for block in bundle.block_refs:
                yield from ray.get(block).to_pylist()


def _pipeline(units: Sequence[Unit], stages: Sequence[Stage], export: str) -> Dataset:
    """The stages on Ray Data."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.target_max_block_size = None
    context.raise_original_map_exception = True
    context.issue_detectors_config.detectors = []
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_stored_bytes(stages))
    first, *others = stages
    dataset = ray.data.read_datasource(
        UnitSource(units, first.name.title(), _step(first, export), first.rows * table_bytes(first.gives)),
        override_num_blocks=len(units),
        num_cpus=first.cpus,
        compute=TaskPoolStrategy(size=first.processes[1]),
        # Also what keeps Ray from fusing this stage into the next one.
        max_calls=first.max_calls,
    )
    for stage in others:
        dataset = _with_actors(dataset, stage, export) if stage.keeps else _with_tasks(dataset, stage, export)
    return dataset


def _stored_bytes(stages: Sequence[Stage]) -> int:
    """Of the object store, that units between stages may take; else the first stage, which is ahead of the others,
    fills whatever share of it Ray allows."""
    unit = sum(stage.rows * table_bytes(stage.gives) for stage in stages)
    return STORED_UNITS * sum(stage.processes[1] for stage in stages) * unit


def _step(stage: Stage, export: str) -> Timed:
    """What a process of a stage calls, built here and now."""
    return Timed(partial(stage.checked, stage.build()), stage.name, export)


def _with_actors(dataset: Dataset, stage: Stage, export: str) -> Dataset:
    return dataset.map_batches(
        # By whose name Ray calls the processes.
        type(stage.name, (_Actor,), {}),
        fn_constructor_args=(stage, export),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=stage.processes[0],
            max_size=stage.processes[1],
            max_concurrent_calls_per_actor=stage.calls,
            # Else Ray has the calls wait for each other.
            enable_true_multi_threading=stage.calls > 1,
        ),
        num_cpus=stage.cpus,
        num_gpus=stage.gpus,
    )


def _with_tasks(dataset: Dataset, stage: Stage, export: str) -> Dataset:
    step = _step(stage, export)

    def call(table: pa.Table) -> pa.Table:
        # A unit at which the GPU was lost is passed on.
        return table if table.schema.equals(LOST) else step(table)

    call.__name__ = stage.name
    return dataset.map_batches(
        call,
        batch_size=None,
        batch_format="pyarrow",
        compute=TaskPoolStrategy(size=stage.processes[1]),
        num_cpus=stage.cpus,
    )


class _Actor:
    """A process that keeps what a stage has built."""

    def __init__(self, stage: Stage, export: str) -> None:
        self._call = _step(stage, export)
        self._lock, self._ending = threading.Lock(), False

    def __call__(self, table: pa.Table) -> pa.Table:
        """The stage's call. After an error of the GPU every call in this process fails: it ends, Ray starts another,
        and the run does the unit again. Other units that were in it Ray repeats by itself.
        """
        try:
            return self._call(table)
        except Exception as error:
            if not is_lost(error):
                raise
            with self._lock:
                first, self._ending = not self._ending, True
            if not first:
                # Until the process ends.
                time.sleep(60 * LOST_SECONDS)
            unit, reason = table["unit"][0].as_py(), str(error).partition("\n")[0]
            print(f"this process has lost its GPU and ends; unit {unit} is done again: {error}", flush=True)
            threading.Timer(LOST_SECONDS, os._exit, (LOST_CODE,)).start()
            return pa.table({"lost_unit": [unit], "reason": [reason]}, LOST)
