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
from finer_ray.pipeline.unit_tables import loaded_schema, to_column
from finer_ray.retry import retry
from finer_ray.saliency.parts import MOST_PARTS, PartGrid
from finer_ray.shards import ShardRef, fields_of, read_unit
from finer_ray.store.manifest import Unit


@dataclass(frozen=True)
class Loader:
    """Reads and decodes units, one image at a time: encoded images are never held together.

    Attributes:
        config: of the input.
        transform: the backbone's.
        region: whether annotated regions are wanted too.
        retry_seconds: for which a store that fails in passing is tried again.
        parts: the grid whose cells show parts; None where part masks are not wanted.
    """

    config: InputConfig
    transform: Transform
    region: bool
    retry_seconds: float
    parts: PartGrid | None = None

    @property
    def gives(self) -> pa.Schema:
        """The schema of a loaded unit."""
        return loaded_schema(self.transform.size, self.region, None if self.parts is None else self.parts.grid)

    def __call__(self, unit: Unit) -> pa.Table:
        """A unit's images, LOADED.

        Raises:
            StoreError: the shard's store does not answer.
        """
        return retry(lambda: self._load(unit), f"read {unit.url}", self.retry_seconds)

    def _load(self, unit: Unit) -> pa.Table:
        # The memory of what stays empty is never touched.
        pixels = np.zeros((unit.count, *self.transform.size, 3), np.uint8)
        regions = np.zeros((unit.count, *self.transform.size), bool)
        parts = np.zeros((unit.count, *(self.parts.grid if self.parts else (0, 0))), np.uint8)
        lines = []
        fields = fields_of(unit.format, self.config.places())
        ref = ShardRef(unit.url, unit.format)
        samples = read_unit(ref, fields, unit.start, unit.count, self.config.max_member_bytes)
        for position, sample in enumerate(samples):
            lines.append(_line(unit, position, sample))
            try:
                found = self._decoded(sample)
            except DecodeError as error:
                lines[-1] |= {"stage": error.stage, "error": error.message}
                if error.size is not None:
                    lines[-1] |= self._input_size(*error.size)
                continue
            height, width = found.image.shape[:2]
            pixels[position, :height, :width] = found.image
            if found.region is not None:
                regions[position, :height, :width] = found.region
            if self.parts is not None and found.parts is not None:
                parts[position] = self.parts(found.parts)
            lines[-1] |= {
                "region_kind": found.region_kind,
                "width": found.width,
                "height": found.height,
                "view": self.transform.view_box(found.width, found.height),
                **self._input_size(found.width, found.height),
            }
        notes = {field.name: pa.array([line.get(field.name) for line in lines], field.type) for field in self._notes()}
        good = np.array([line.get("stage") is None for line in lines])
        tensors = {"pixels": to_column(pixels, good)}
        if self.region:
            tensors["region"] = to_column(regions, np.array([line.get("region_kind") is not None for line in lines]))
        if self.parts is not None:
            tensors["parts"] = to_column(parts)
        return pa.table({**notes, **tensors}, self.gives)

    def _input_size(self, width: int, height: int) -> dict[str, int]:
        rows, columns = self.transform.shape(width, height)
        return {"input_width": columns, "input_height": rows}

    def _notes(self) -> list[pa.Field]:
        return [field for field in self.gives if field.name not in ("pixels", "region", "parts")]

    def _decoded(self, sample: Sample) -> Decoded:
        names = self.config.part_names
        largest = 0 if self.parts is None else MOST_PARTS if names is None else len(names)
        return decode(sample, self.transform, self.config.max_image_pixels, self.config.fast_jpeg, self.region, largest)


def _line(unit: Unit, position: int, sample: Sample) -> dict[str, Any]:
    """What is known of a sample before it is decoded."""
    named = isinstance(sample.label, str)
    references = None
    if sample.references is not None:
        references = [{"name" if isinstance(one, str) else "number": one} for one in sample.references]
    return {
        "unit": unit.number,
        "index": unit.first_index + position,
        "shard": unit.url,
        "key": sample.key,
        "digest": sample.digest(),
        "label_number": None if named else sample.label,
        "label_name": sample.label if named else None,
        "text": sample.text,
        "contrast_text": sample.contrast_text,
        "references": references,
        "columns": json.dumps(dict(sample.columns)) if sample.columns else None,
    }
