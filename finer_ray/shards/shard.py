"""Shards: what is known of an input file (or image folder) before its images are read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard: an absolute local path or any other fsspec URL, and its format, a name in `FORMATS`."""

    url: str
    format: str


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What counting a shard found.

    Attributes:
        ref: the shard.
        count: its samples, unusable ones included.
        fingerprint: hex digest that changes with the shard's contents as far as its headers tell them; '' where
            the shard could not be read at all.
        starts: for each unit of work, where its first sample begins: a byte offset (tar), a row (Parquet) or an
            index (folder). Only `read_unit` interprets it.
        problem: what is wrong with the shard as a whole, or None. The samples counted are readable nevertheless.
    """

    ref: ShardRef
    count: int
    fingerprint: str
    starts: tuple[int, ...]
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The index as JSON types; `from_json` restores it."""
        return {**asdict(self), "starts": list(self.starts)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """The index that `to_json` wrote. Raises KeyError or TypeError for anything else."""
        return cls(
            ref=ShardRef(**tree["ref"]),
            count=tree["count"],
            fingerprint=tree["fingerprint"],
            starts=tuple(tree["starts"]),
            problem=tree["problem"],
        )
