"""A format of shards: what reading it takes, in one object."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from finer_ray.images.sample import Sample
from finer_ray.shards.fields import Fields
from finer_ray.shards.shard import ShardIndex, ShardRef


@dataclass(frozen=True)
class Format:
    """A format of shards; one that is a line of `FORMATS` (formats.py), or defined in a plugin, is known everywhere.

    Attributes:
        name: value of `input.format`.
        description: what a shard of it is, in one line, for documents.
        suffixes: by which a shard is told, in lower case with their dot, as `.tar`; () where no name tells it.
        fields: the names that annotations usually have.
        index: (shard, fields, rows per unit) to its index: a shard without usable samples has a `problem`. Raises where
            the shard cannot be opened or read.
        keys: (shard, fields) to the keys of the samples that `index` counts, in order.
        read: (shard, fields, start, count, most bytes of an image or a mask) to at most `count` samples from `start`
            on, which is one of the index's `starts`. What is wrong with one sample is its `error`. Raises OSError or
            pyarrow.ArrowException where the shard cannot be opened or read.
        other_fields: for `finer-ray init`, by field (image, label, box, mask): further names, the likeliest first.
        class_names: (shards, fields) to all class names that the shards tell, in the order of integer labels; () where
            they tell none.
        folder: whether a shard is a folder and not a file.
    """

    name: str
    description: str
    suffixes: tuple[str, ...]
    fields: Fields
    index: Callable[[ShardRef, Fields, int], ShardIndex]
    keys: Callable[[ShardRef, Fields], Iterator[str]]
    read: Callable[[ShardRef, Fields, int, int, int], Iterator[Sample]]
    other_fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    class_names: Callable[[Sequence[ShardRef], Fields], Sequence[str]] = lambda shards, fields: ()
    folder: bool = False
