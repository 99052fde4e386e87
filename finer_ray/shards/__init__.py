"""Image shards: finding, counting and reading them, and decoding their images. No Ray; torch in `device_jpeg` alone."""

from finer_ray.shards.decode import Decoded, DecodeError, decode
from finer_ray.shards.deferred import Deferred, defer
from finer_ray.shards.fields import Fields
from finer_ray.shards.files import stamps
from finer_ray.shards.find import find_shards
from finer_ray.shards.formats import index_shard, list_keys, read_unit, unit_digest
from finer_ray.shards.sample import Sample
from finer_ray.shards.shard import ShardIndex, ShardRef
from finer_ray.shards.transform import Transform

__all__ = [
    "DecodeError", "Decoded", "Deferred", "Fields", "Sample", "ShardIndex", "ShardRef", "Transform",
    "decode", "defer", "find_shards", "index_shard", "list_keys", "read_unit", "stamps",
    "unit_digest",
]  # fmt: skip
