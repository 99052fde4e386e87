"""Formats: one way to count, list and read shards of any of them."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from types import ModuleType

from finer_ray.shards import folder, parquet, webdataset
from finer_ray.shards.fields import Fields
from finer_ray.shards.message import brief, clipped, printable
from finer_ray.shards.sample import Sample
from finer_ray.shards.shard import ShardIndex, ShardRef

# A unit is held in memory as a whole: what its samples with more than their fair share take together is limited to so
# many times `max_member_bytes` (4 GiB by default), smaller ones always have their place.
LARGEST_MEMBERS = 16
READERS: dict[str, ModuleType] = {"webdataset": webdataset, "parquet": parquet, "folder": folder}


def index_shard(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count a shard's samples. A shard that cannot be read at all has none, and a problem; nothing is raised."""
    try:
        index: ShardIndex = READERS[ref.format].index(ref, fields, rows_per_unit)
    except Exception as error:
        return ShardIndex(ref, 0, "", (), brief(error))
    return index if index.problem is None else replace(index, problem=printable(clipped(index.problem)))


def list_keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Keys of the samples that `index_shard` counts, in order. Raises OSError where the shard is gone."""
    yield from READERS[ref.format].keys(ref, fields)


def read_unit(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Exactly `count` samples from one of the index's `starts` on.

    Samples that the shard no longer gives are errors themselves, and so are large ones for which a unit has no room;
    nothing is raised. Together their images and masks take no more than 32 times `max_member_bytes`.
    """
    done, reason = 0, "the shard ends before this sample: it changed since it was counted"
    room = LARGEST_MEMBERS * max_member_bytes
    try:
        for sample in islice(READERS[ref.format].read(ref, fields, start, count, max_member_bytes), count):
            size = len(sample.image or b"") + len(sample.mask or b"")
            large = size > LARGEST_MEMBERS * max_member_bytes // count
            if sample.error is not None:
                yield replace(sample, error=printable(clipped(sample.error)))
            elif large and size > room:
                yield Sample(sample.key, error=_no_room(size, max_member_bytes))
            else:
                room -= size if large else 0
                yield sample
            done += 1
    except Exception as error:
        reason = f"the shard cannot be read: {brief(error)}"
    yield from (Sample("", error=reason) for _ in range(done, count))


def _no_room(size: int, max_member_bytes: int) -> str:
    return (
        f"{size} bytes, for which its unit of work has no room beside its other large images (in all "
        f"{LARGEST_MEMBERS * max_member_bytes} bytes): lower output.rows_per_unit or raise input.max_member_bytes"
    )
