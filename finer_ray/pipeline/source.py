"""The source: a Ray Data datasource whose blocks are units of work, loaded."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from finer_ray.pipeline.loading import Loader
from finer_ray.store.manifest import Unit


class UnitSource(Datasource):  # type: ignore[misc]
    """Units of work as Ray Data blocks: one read task and one block each."""

    def __init__(self, units: list[Unit], loader: Loader) -> None:
        super().__init__()
        self._units, self._loader = units, loader

    def get_name(self) -> str:
        """Shown by Ray's dashboard."""
        return "Units"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all units' pixels."""
        return sum(unit.count for unit in self._units) * self._loader.row_bytes

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task a unit, whatever parallelism Ray asks for."""
        return [ReadTask(partial(_read, unit, self._loader), self._metadata(unit)) for unit in self._units]

    def _metadata(self, unit: Unit) -> BlockMetadata:
        size = unit.count * self._loader.row_bytes
        return BlockMetadata(num_rows=unit.count, size_bytes=size, input_files=[unit.url], exec_stats=None)


def _read(unit: Unit, loader: Loader) -> Iterator[pa.Table]:
    yield loader(unit)
