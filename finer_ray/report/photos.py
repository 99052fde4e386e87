"""Photos of an export's rows, read again from their shards."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.config.loading import parse_section
from finer_ray.config.messages import brief
from finer_ray.config.schema import InputConfig
from finer_ray.errors import ExportError, StoreError
from finer_ray.images.decode import Decoded, DecodeError, decode
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform
from finer_ray.shards import ShardRef, fields_of, read_unit
from finer_ray.store.reading import Export


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
    for row, found in try_rows(export, rows, region):
        if isinstance(found, str):
            raise ExportError(found)
        yield row, found


def try_rows(
    export: Export, rows: Sequence[int], region: bool, enlarged: int = 1
) -> Iterator[tuple[int, Decoded | str]]:
    """As `read_rows`, with the reason in place of a photo that cannot be read again; no shard stops the others.

    Args:
        export: any.
        rows: of its images.
        region: whether annotated regions are wanted.
        enlarged: times the pixels of the model's input along each side, for those who look closer than the model; not
            of `native`, see `Transform.enlarged`.

    Raises:
        ConfigError: the export's config is none of this version's.
    """
    # The rest of the config may name methods and metrics that are not at hand.
    config = parse_section(InputConfig, export.manifest.config.get("input", {}))
    transform = Transform(**export.manifest.transform).enlarged(enlarged)
    size = export.manifest.layout.rows_per_unit
    urls = {unit.number: unit.url for unit in export.manifest.units()}
    for row, found in try_samples(export, rows):
        yield row, found if isinstance(found, str) else _decoded(urls[row // size], found, transform, config, region)


def try_samples(export: Export, rows: Sequence[int]) -> Iterator[tuple[int, Sample | str]]:
    """Some rows' samples as their shards hold them, in the order of rows, with the reason in place of one that is lost.

    Raises:
        ConfigError: the export's config is none of this version's.
    """
    size, wanted = export.manifest.layout.rows_per_unit, set(rows)
    config = parse_section(InputConfig, export.manifest.config.get("input", {}))
    units = {unit.number: unit for unit in export.manifest.units()}
    known = export.images.filter(pc.is_in(export.images["row"], pa.array(sorted(wanted), pa.int64())))
    keys = dict(zip(known["row"].to_pylist(), known["key"].to_pylist(), strict=True))
    last = {row // size: row for row in sorted(wanted)}
    for number, end in last.items():
        unit = units[number]
        fields = fields_of(unit.format, config.fields.model_dump() | {"key": export.manifest.fields().get("key")})
        # What comes after the last wanted photo of a unit need not be read.
        count = 1 + end - number * size
        samples = read_unit(ShardRef(unit.url, unit.format), fields, unit.start, count, config.max_member_bytes)
        row = number * size - 1
        try:
            for row, sample in enumerate(samples, start=number * size):
                if row in wanted:
                    yield row, _same(unit.url, sample, keys[row])
        except (StoreError, OSError) as error:
            lost = _lost(unit.url, brief(error))
            yield from ((other, lost) for other in range(row + 1, end + 1) if other in wanted)


def _same(url: str, sample: Sample, key: str) -> Sample | str:
    """A sample, if it is the one that was exported, or what is wrong with it."""
    if sample.error is not None:
        return _lost(url, f"read: {sample.error}")
    if sample.key != key:
        return f"{url}: it changed: another image, {sample.key!r}, stands where {key!r} stood"
    return sample


def _decoded(url: str, sample: Sample, transform: Transform, config: InputConfig, region: bool) -> Decoded | str:
    """A sample's photo, or what is wrong with it."""
    try:
        return decode(sample, transform, config.max_image_pixels, config.fast_jpeg, region)
    except (DecodeError, OSError) as error:
        return _lost(url, str(error))


def _lost(url: str, reason: str) -> str:
    return f"{url}: its photos cannot be read again: {reason}"
