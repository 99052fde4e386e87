"""The source: a Ray Data datasource whose blocks are units of work, loaded."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from finer_ray.store.manifest import Unit


class UnitSource(Datasource):  # type: ignore[misc]
    """Units of work as Ray Data blocks: one read task and one block each.

    Args:
        units: of work.
        name: shown by Ray's dashboard.
        load: makes a table of a unit.
        size: bytes of that table, about.
    """

    def __init__(self, units: Sequence[Unit], name: str, load: Callable[[Unit], pa.Table], size: int) -> None:
        super().__init__()
        self._units, self._name, self._load, self._size = units, name, load, size

    def get_name(self) -> str:
        """Shown by Ray's dashboard."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all units' tables."""
        return len(self._units) * self._size

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task a unit, whatever parallelism Ray asks for."""
        return [ReadTask(partial(_read, self._load, unit), self._metadata(unit)) for unit in self._units]

    def _metadata(self, unit: Unit) -> BlockMetadata:
        return BlockMetadata(num_rows=unit.count, size_bytes=self._size, input_files=[unit.url], exec_stats=None)


def _read(load: Callable[[Unit], pa.Table], unit: Unit) -> Iterator[pa.Table]:
    yield load(unit)
