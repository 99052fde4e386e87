"""Loading: a unit's memory is that of its pixels and of one photo, however large its photos are."""

import tracemalloc
from pathlib import Path

import numpy as np

from finer_ray.config.schema import InputConfig
from finer_ray.images.transform import Transform
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.shards import ShardRef, fields_of, index_shard
from finer_ray.store.manifest import Unit
from tests.conftest import write_tar

SIDE = 1200
TRANSFORM = Transform((64, 64))


def bitmap(seed: int) -> bytes:
    """An uncompressed picture: as many bytes as pixels take."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return f"P6 {SIDE} {SIDE} 255\n".encode() + pixels.tobytes()


def test_large_photos_are_never_held_together(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"{i}.ppm", bitmap(i)) for i in range(16)])
    config = InputConfig.model_validate({"shards": str(tar), "fields": {"image": "ppm"}})
    ref = ShardRef(str(tar), "webdataset")
    index = index_shard(ref, fields_of("webdataset", {"image": "ppm"}), 16)
    loader = Loader(config, TRANSFORM, region=False, retry_seconds=0)
    unit = Unit(0, str(tar), "webdataset", index.starts[0], 0, 16)
    tracemalloc.start()
    table = loader(unit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table["stage"].null_count == 16
    photo = 3 * SIDE * SIDE
    # The file's bytes, decoded pixels, and what resizing takes of them; 16 photos would be 69 MB in bytes alone.
    assert peak < 5 * photo
