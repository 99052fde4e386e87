"""Loading stage: a unit's images from their shard as pixels, on CPU tasks."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from finer_ray.config.schema import InputConfig
from finer_ray.images.decode import Decoded, DecodeError, decode
from finer_ray.images.sample import Sample
from finer_ray.images.transform import Transform
from finer_ray.pipeline.columns import pack, pack_some
from finer_ray.retry import patiently
from finer_ray.shards import ShardRef, fields_of, read_unit
from finer_ray.store.manifest import Unit

TYPES = {
    "key": pa.string(),
    "label": pa.string(),
    "concept": pa.string(),
    "base": pa.string(),
    "region_kind": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "digest": pa.string(),
    "stage": pa.string(),
    "error": pa.string(),
}


@dataclass(frozen=True)
class Loader:
    """Reads and decodes units, one image at a time: encoded images are never held together.

    Attributes:
        config: of the input.
        transform: the backbone's.
        region: whether annotated regions are wanted too.
        patience: seconds for which a store that fails in passing is tried again.
    """

    config: InputConfig
    transform: Transform
    region: bool
    patience: float

    @property
    def row_bytes(self) -> int:
        """Of an image's pixels."""
        height, width = self.transform.size
        return 3 * height * width

    def __call__(self, unit: Unit) -> pa.Table:
        """A unit's photos.

        Returns:
            unit, index, shard, key, label (JSON), concept, base; of a good image `pixels` (packed (h, w, 3) uint8);
            where wanted, `region` (packed bits of (h, w)); `region_kind`, `width`, `height`; `digest` of what was read;
            `stage` and `error`, null for good images.

        Raises:
            StoreError: the shard's store does not answer.
        """
        return patiently(lambda: self._load(unit), f"read {unit.url}", self.patience)

    def _load(self, unit: Unit) -> pa.Table:
        height, width = self.transform.size
        # Filled from the front; the memory of what stays empty is never touched.
        pixels, present = np.zeros((unit.count, height, width, 3), np.uint8), np.zeros(unit.count, bool)
        regions = np.zeros((unit.count, -(-height * width // 8)), np.uint8)
        notes: list[dict[str, Any]] = []
        fields = fields_of(unit.format, self.config.fields.model_dump())
        ref = ShardRef(unit.url, unit.format)
        samples = read_unit(ref, fields, unit.start, unit.count, self.config.max_member_bytes)
        for position, sample in enumerate(samples):
            notes.append(_note(sample))
            try:
                found = self._take(sample)
            except DecodeError as error:
                notes[-1] |= {"stage": error.stage, "error": error.message}
                continue
            pixels[present.sum()] = found.image
            present[position] = True
            if found.region is not None:
                regions[position] = np.packbits(found.region.reshape(-1))
            notes[-1] |= {"region_kind": found.region_kind, "width": found.width, "height": found.height}
        columns: dict[str, Any] = {
            "unit": pa.array([unit.number] * unit.count, pa.int64()),
            "index": pa.array(range(unit.first_index, unit.first_index + unit.count), pa.int64()),
            "shard": pa.array([unit.url] * unit.count, pa.string()),
            **{name: pa.array([note.get(name) for note in notes], kind) for name, kind in TYPES.items()},
            "pixels": pack_some(pixels[: present.sum()], present),
        }
        if self.region:
            columns["region"] = pack(regions)
        return pa.table(columns)

    def _take(self, sample: Sample) -> Decoded:
        return decode(sample, self.transform, self.config.max_image_pixels, self.config.fast_jpeg, self.region)


def _note(sample: Sample) -> dict[str, Any]:
    label = None if sample.label is None else json.dumps(sample.label)
    return {
        "key": sample.key,
        "label": label,
        "concept": sample.concept,
        "base": sample.base,
        "digest": sample.digest(),
    }
