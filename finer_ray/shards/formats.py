"""Formats: one way to count, list and read shards of any of them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from types import ModuleType

from finer_ray.retry import transient
from finer_ray.shards import folder, parquet, webdataset
from finer_ray.shards.fields import Fields
from finer_ray.shards.files import is_local, locate
from finer_ray.shards.message import brief, clipped, printable
from finer_ray.shards.sample import Sample
from finer_ray.shards.shard import ShardIndex, ShardRef

READERS: dict[str, ModuleType] = {"webdataset": webdataset, "parquet": parquet, "folder": folder}


def index_shard(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count a shard's samples. A shard that cannot be read at all has none, and a problem.

    Raises:
        Exception: a remote store fails in a way that may pass (`finer_ray.retry.transient`); nothing else.
    """
    try:
        index: ShardIndex = READERS[ref.format].index(ref, fields, rows_per_unit)
    except Exception as error:
        if _may_pass(ref, error):
            raise
        return ShardIndex(ref, 0, "", (), brief(error))
    return index if index.problem is None else replace(index, problem=printable(clipped(index.problem)))


def list_keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Keys of the samples that `index_shard` counts, in order. Raises OSError where the shard is gone."""
    yield from READERS[ref.format].keys(ref, fields)


def read_unit(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Exactly `count` samples from one of the index's `starts` on.

    Samples that the shard no longer gives are errors themselves.

    Raises:
        Exception: a remote store fails in a way that may pass (`finer_ray.retry.transient`); nothing else.
    """
    done, reason = 0, "the shard ends before this sample: it changed since it was counted"
    try:
        for sample in islice(READERS[ref.format].read(ref, fields, start, count, max_member_bytes), count):
            yield sample if sample.error is None else replace(sample, error=printable(clipped(sample.error)))
            done += 1
    except Exception as error:
        if _may_pass(ref, error):
            raise
        reason = f"the shard cannot be read: {brief(error)}"
    yield from (Sample("", error=reason) for _ in range(done, count))


def _may_pass(ref: ShardRef, error: Exception) -> bool:
    """Local disks do not heal by waiting: what they cannot read is bad input."""
    return transient(error) and not is_local(locate(ref.url)[0])
