"""Formats: one way to count, list and read shards of any of them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from typing import Any

import pyarrow as pa

from finer_ray.config.messages import brief, clipped, nearest, printable
from finer_ray.errors import InputError, StoreError
from finer_ray.images.sample import DIGEST_BYTES, Sample
from finer_ray.plugins import table
from finer_ray.retry import transient
from finer_ray.shards.fields import Fields
from finer_ray.shards.folder import FOLDER
from finer_ray.shards.format import Format
from finer_ray.shards.parquet import PARQUET
from finer_ray.shards.shard import ShardIndex, ShardRef
from finer_ray.shards.webdataset import WEBDATASET

FORMATS = table(Format, (WEBDATASET, PARQUET, FOLDER))
NOT_GIVEN: Mapping[str, Any] = {}


def fields_of(format: str, given: Mapping[str, Any] = NOT_GIVEN) -> Fields:
    """The fields of shards of a format.

    >>> fields_of("parquet", {"label": "species", "box": None}).label
    'species'

    Args:
        format: a name in FORMATS.
        given: of a config's `input.fields`; what is None or left out is the format's default.

    Raises:
        InputError: there is no such format.
    """
    if format not in FORMATS:
        hint = nearest(format, [*FORMATS])
        raise InputError(f"unknown format of shards {format!r}{hint}; valid: {', '.join(FORMATS)}")
    return replace(FORMATS[format].fields, **{name: text for name, text in given.items() if text is not None})


def index_shard(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count a shard's samples. A shard that cannot be read at all has none, and a problem.

    Raises:
        Exception: a store fails in a way that may pass (`finer_ray.retry.transient`); nothing else.
    """
    try:
        index = FORMATS[ref.format].index(ref, fields, rows_per_unit)
    except Exception as error:
        if transient(error):
            raise
        return ShardIndex(ref, 0, "", (), brief(error))
    return index if index.problem is None else replace(index, problem=printable(clipped(index.problem)))


def list_keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Keys of the samples that `index_shard` counts, in order. Raises OSError where the shard is gone."""
    yield from FORMATS[ref.format].keys(ref, fields)


def read_unit(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Exactly `count` samples from one of the index's `starts` on.

    Raises:
        StoreError: the shard cannot be opened or read, or gives fewer samples than were counted: it is out of reach for
            a moment, or it has changed since. That is no fault of its images.
        Exception: a store fails in a way that may pass (`finer_ray.retry.transient`); nothing else.
    """
    done, reason = 0, f"it gives fewer samples than the {count} that were counted from there on"
    try:
        for sample in islice(FORMATS[ref.format].read(ref, fields, start, count, max_member_bytes), count):
            yield sample if sample.error is None else replace(sample, error=printable(clipped(sample.error)))
            done += 1
    except (OSError, pa.ArrowException) as error:
        if transient(error):
            raise
        reason = brief(error)
    except Exception as error:
        if transient(error):
            raise
        # Of a kind that no reader is meant to let through: what it could not read does not stop the rest.
        yield from (Sample("", error=f"the shard cannot be read: {brief(error)}") for _ in range(done, count))
        return
    if done < count:
        raise StoreError(
            f"cannot read {ref.url}, {done} of {count} samples from {start} on, though they were counted: {reason}. "
            "Nothing of this unit is kept. Run the same command again; should the shard have changed, that run says so"
        )


def unit_digest(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> str:
    """Digest of all that `read_unit` reads, as 16 hex digits. Raises as it does."""
    return joined_digest(sample.digest() for sample in read_unit(ref, fields, start, count, max_member_bytes))


def joined_digest(digests: Iterable[str]) -> str:
    """The digest of a unit, of those of its samples in order."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for each in digests:
        digest.update(each.encode())
    return digest.hexdigest()
