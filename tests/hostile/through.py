"""What the pipeline does with one shard, without Ray."""

from dataclasses import dataclass

import numpy as np

from finer_ray.images.decode import Decoded, DecodeError, decode
from finer_ray.images.transform import Transform
from finer_ray.shards import ShardRef, fields_of, index_shard, list_keys, read_unit

MAX_PIXELS = 10**6
MAX_BYTES = 2**20
ROWS_PER_UNIT = 3
TRANSFORM = Transform((64, 64))


@dataclass(frozen=True)
class Outcome:
    """Images and failures of a shard, by key in order, and what is wrong with it as a whole."""

    images: list[tuple[str, Decoded]]
    failures: list[tuple[str, str, str]]
    problem: str | None


def through(ref: ShardRef, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Outcome:
    """Count, list, read unit by unit, decode; counts and keys must agree, and messages be short."""
    fields = fields_of(ref.format)
    index = index_shard(ref, fields, ROWS_PER_UNIT)
    samples = []
    for unit, start in enumerate(index.starts):
        count = min(ROWS_PER_UNIT, index.count - unit * ROWS_PER_UNIT)
        samples += list(read_unit(ref, fields, start, count, max_bytes))
    assert len(samples) == index.count
    if index.count:
        assert [sample.key for sample in samples] == list(list_keys(ref, fields))
    images: list[tuple[str, Decoded]] = []
    failures: list[tuple[str, str, str]] = []
    for sample in samples:
        try:
            images.append((sample.key, decode(sample, TRANSFORM, max_pixels)))
        except DecodeError as error:
            failures.append((sample.key, error.stage, error.message))
    assert all(len(text) <= 1000 for text in [index.problem or "", *(message for *_, message in failures)])
    return Outcome(images, failures, index.problem)


def same(a: Decoded, b: Decoded) -> bool:
    """Whether two photos are one, pixel for pixel, with their regions."""
    regions = a.region is None if b.region is None else np.array_equal(a.region, b.region)  # type: ignore[arg-type]
    return np.array_equal(a.image, b.image) and regions and (a.width, a.height) == (b.width, b.height)
