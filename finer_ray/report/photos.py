"""Photos of an export's rows, read again from their shards."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finer_ray.config import parse_config
from finer_ray.errors import ExportError
from finer_ray.shards import Decoded, DecodeError, Fields, ShardRef, Transform, decode, read_unit
from finer_ray.store.export import Export


def read_photos(export: Export, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
    """The model's view of some rows' photos, each (h, w, 3) uint8.

    Raises:
        ExportError: a shard is gone, or no longer holds the photo.
    """
    photos = {row: decoded.image for row, decoded in read_rows(export, rows, region=False)}
    return [photos[row] for row in rows]


def read_rows(export: Export, rows: Sequence[int], region: bool) -> Iterator[tuple[int, Decoded]]:
    """Some rows' photos, and their annotated regions where wanted, in the order of rows; a unit is read at a time.

    Raises:
        ExportError: a shard is gone, or no longer holds the photo.
    """
    size, wanted = export.manifest.layout.rows_per_unit, set(rows)
    config = parse_config(export.manifest.config).input
    transform = Transform(**export.manifest.transform)
    units = {unit.number: unit for unit in export.manifest.units()}
    for number in sorted({row // size for row in wanted}):
        unit = units[number]
        fields = Fields.with_defaults(unit.format, config.fields.model_dump())
        ref = ShardRef(unit.url, unit.format)
        try:
            samples = read_unit(ref, fields, unit.start, unit.count, config.max_member_bytes)
            for row, sample in enumerate(samples, start=number * size):
                if row in wanted:
                    yield row, decode(sample, transform, config.max_image_pixels, config.fast_jpeg, region)
        except (DecodeError, OSError) as error:
            raise ExportError(f"{unit.url}: its photos cannot be read again: {error}") from error
