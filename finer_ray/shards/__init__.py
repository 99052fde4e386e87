"""Image shards: finding, counting and reading them. No torch, no Ray."""

from finer_ray.shards.fields import Fields
from finer_ray.shards.files import stamps
from finer_ray.shards.find import find_shards
from finer_ray.shards.formats import index_shard, list_keys, read_unit, unit_digest
from finer_ray.shards.shard import ShardIndex, ShardRef

__all__ = [
    "Fields", "ShardIndex", "ShardRef", "find_shards", "index_shard", "list_keys", "read_unit", "stamps", "unit_digest",
]  # fmt: skip
