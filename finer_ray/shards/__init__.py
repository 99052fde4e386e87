"""Image shards: finding, counting and reading them. No torch, no Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finer_ray.shards.changes import stamps
    from finer_ray.shards.fields import Fields
    from finer_ray.shards.find import find_shards
    from finer_ray.shards.formats import fields_of, index_shard, list_keys, read_unit, unit_digest
    from finer_ray.shards.shard import ShardIndex, ShardRef

__all__ = [
    "Fields", "ShardIndex", "ShardRef", "fields_of", "find_shards", "index_shard", "list_keys", "read_unit", "stamps",
    "unit_digest",
]  # fmt: skip
_MODULES = {"Fields": "fields", "ShardIndex": "shard", "ShardRef": "shard", "find_shards": "find", "stamps": "changes"}


def __getattr__(name: str) -> Any:
    # Imported on first use: a plugin that defines a format imports `shards.format` before the table of formats is made.
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'formats')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
