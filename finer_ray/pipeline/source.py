"""The source: a Ray Data datasource whose blocks are units of work, as read and not yet decoded."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from finer_ray.config import InputConfig
from finer_ray.shards import Fields, Sample, ShardRef, read_unit
from finer_ray.store.manifest import Unit

SAMPLES = pa.schema(
    [
        pa.field("unit", pa.int64()),
        pa.field("index", pa.int64()),
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("image", pa.large_binary()),
        pa.field("label", pa.string()),
        pa.field("box", pa.list_(pa.float64())),
        pa.field("mask", pa.large_binary()),
        pa.field("concept", pa.string()),
        pa.field("base", pa.string()),
        pa.field("error", pa.string()),
    ]
)
BYTES_PER_IMAGE = 100_000


class UnitSource(Datasource):  # type: ignore[misc]
    """Units of work as Ray Data blocks: one read task and one block each."""

    def __init__(self, units: list[Unit], config: InputConfig) -> None:
        super().__init__()
        self._units, self._config = units, config

    def get_name(self) -> str:
        """Shown by Ray's dashboard."""
        return "Units"

    def estimate_inmemory_data_size(self) -> int:
        """A guess, in bytes; Ray replaces it by what it measures."""
        return sum(unit.count for unit in self._units) * BYTES_PER_IMAGE

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """One task a unit, whatever parallelism Ray asks for."""
        return [ReadTask(partial(_read, unit, self._config), _metadata(unit)) for unit in self._units]


def _metadata(unit: Unit) -> BlockMetadata:
    return BlockMetadata(
        num_rows=unit.count, size_bytes=unit.count * BYTES_PER_IMAGE, input_files=[unit.url], exec_stats=None
    )


def _read(unit: Unit, config: InputConfig) -> Iterator[pa.Table]:
    fields = Fields.with_defaults(unit.format, config.fields.model_dump())
    ref = ShardRef(unit.url, unit.format)
    samples = read_unit(ref, fields, unit.start, unit.count, config.max_member_bytes)
    lines = [_line(unit, position, sample) for position, sample in enumerate(samples)]
    yield pa.Table.from_pylist(lines, SAMPLES)


def _line(unit: Unit, position: int, sample: Sample) -> dict[str, Any]:
    return {
        "unit": unit.number,
        "index": unit.first_index + position,
        "shard": unit.url,
        "key": sample.key,
        "image": sample.image,
        "label": None if sample.label is None else json.dumps(sample.label),
        "box": sample.box,
        "mask": sample.mask,
        "concept": sample.concept,
        "base": sample.base,
        "error": sample.error,
    }
