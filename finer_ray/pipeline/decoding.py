"""Decoding stage: encoded samples to pixels, on CPU tasks."""

from typing import Any

import numpy as np
import pyarrow as pa

from finer_ray.config import InputConfig
from finer_ray.pipeline.columns import pack
from finer_ray.shards import Decoded, DecodeError, Sample, Transform, decode

KEPT = ("unit", "index", "shard", "key", "label", "concept", "base")


def decode_unit(table: pa.Table, transform: Transform, config: InputConfig, region: bool) -> pa.Table:
    """A unit's samples as pixels.

    Args:
        table: with the schema `SAMPLES` of the source.
        transform: the backbone's.
        config: the limits.
        region: whether annotated regions are wanted too.

    Returns:
        unit, index, shard, key, label, concept, base as they were; `pixels` (packed (h, w, 3) uint8) and, where wanted,
        `region` (packed bits of (h, w)); `region_kind`, `width`, `height`; `stage` and `error`, null for good images.
    """
    height, width = transform.size
    pixels = np.zeros((len(table), height, width, 3), np.uint8)
    regions = np.zeros((len(table), -(-height * width // 8)), np.uint8)
    notes: list[dict[str, Any]] = []
    for position in range(len(table)):
        sample = _sample(table, position)
        try:
            decoded = decode(sample, transform, config.max_image_pixels, config.fast_jpeg, region)
        except DecodeError as error:
            notes.append({"stage": error.stage, "error": error.message})
            continue
        pixels[position] = decoded.image
        if decoded.region is not None:
            regions[position] = np.packbits(decoded.region.reshape(-1))
        notes.append(_note(decoded))
    columns = {name: table[name] for name in KEPT}
    columns["pixels"] = pack(pixels)
    if region:
        columns["region"] = pack(regions)
    return pa.table({**columns, **_columns(notes)})


def _sample(table: pa.Table, position: int) -> Sample:
    image, box, mask, error = (table[name][position].as_py() for name in ("image", "box", "mask", "error"))
    return Sample(table["key"][position].as_py(), image, None, box and tuple(box), mask, error=error)


def _note(decoded: Decoded) -> dict[str, Any]:
    return {"region_kind": decoded.region_kind, "width": decoded.width, "height": decoded.height}


def _columns(notes: list[dict[str, Any]]) -> dict[str, pa.Array]:
    types = {"region_kind": pa.string(), "width": pa.int32(), "height": pa.int32(), "stage": pa.string()}
    types["error"] = pa.string()
    return {name: pa.array([note.get(name) for note in notes], kind) for name, kind in types.items()}
