"""Joining: which row of one export is the same image as which row of another, by shard and key."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.store.reading import Export

KEY = ["row", "shard", "key"]
# The n-th image of a key in a shard belongs to the n-th of that key in the other export's; what could not be explained
# counts, and has no size. A failure without a key is of all of a shard's images that are not found.
SQL = """
WITH one AS (SELECT *, row_number() OVER (PARTITION BY shard, key ORDER BY row) AS nth FROM a),
     other AS (SELECT *, row_number() OVER (PARTITION BY shard, key ORDER BY row) AS nth FROM b WHERE key IS NOT NULL),
     broken AS (SELECT DISTINCT shard FROM b WHERE key IS NULL)
SELECT one.row AS row_a, other.row AS row_b, other.width IS NULL AS failed,
       coalesce(one.width = other.width AND one.height = other.height, false) AS same_size
FROM one JOIN shards ON shards.a = one.shard
         LEFT JOIN other ON other.shard = shards.b AND other.key = one.key AND other.nth = one.nth
         LEFT JOIN broken ON broken.shard = shards.b
WHERE one.width IS NOT NULL AND (other.key IS NOT NULL OR broken.shard IS NOT NULL)
ORDER BY row_a
"""


@dataclass(frozen=True)
class Joined:
    """The images that two exports have in common.

    Attributes:
        rows_a: (n,) int64, rows of the first export, rising.
        rows_b: (n,) int64, the same images' rows of the second.
        only_a: how many images the first export alone has.
        only_b: how many the second alone has.
        other_size: how many keys stand in both for photos of other sizes, which are not joined.
        failed: how many images the first has explained that are among the second's failures, or in a shard of these.
        other_files: how many shards are paired by name whose fingerprints differ: their photos may.
    """

    rows_a: NDArray[np.int64]
    rows_b: NDArray[np.int64]
    only_a: int
    only_b: int
    other_size: int = 0
    failed: int = 0
    other_files: int = 0

    def __len__(self) -> int:
        return len(self.rows_a)


def joined(a: Export, b: Export) -> Joined:
    """The images that both exports have explained, by shard (see `shard_pairs`), key and the photo's size."""
    prints_a, prints_b = _fingerprints(a), _fingerprints(b)
    pairs = shard_pairs(prints_a, prints_b)
    names = pa.table({"a": pa.array(pairs.keys(), pa.string()), "b": pa.array(pairs.values(), pa.string())})
    with duckdb.connect() as connection:
        for name, table in (("a", _lines(a)), ("b", _lines(b)), ("shards", names)):
            connection.register(name, table)
        found = connection.execute(SQL).fetchnumpy()
    same, failed = (np.asarray(found[name], bool) for name in ("same_size", "failed"))
    rows_a, rows_b = (np.asarray(found[name][same], np.int64) for name in ("row_a", "row_b"))
    return Joined(
        rows_a,
        rows_b,
        only_a=a.manifest.counts["images"] - len(rows_a),
        only_b=b.manifest.counts["images"] - len(rows_b),
        other_size=int((~same & ~failed).sum()),
        failed=int(failed.sum()),
        other_files=sum(prints_a[one] != prints_b[other] for one, other in pairs.items()),
    )


def not_joined(a: Export, b: Export) -> Joined:
    """As if no image were in both."""
    none = np.empty(0, np.int64)
    return Joined(none, none, a.manifest.counts["images"], b.manifest.counts["images"])


def shard_pairs(a: Iterable[str], b: Iterable[str]) -> dict[str, str]:
    """Which shard of `b` is which of `a`, by URL: those with the longest common end are paired first.

    An end is whole parts of a path, at the least the file's name, and tells a shard from all others of its export that
    are left. So folders may move, and files of one name in several folders are told apart by these.

    Args:
        a, b: URLs of the shards of each export.

    >>> shard_pairs(["/old/in/train/0.tar", "/old/in/val/0.tar"], ["s3://new/val/0.tar", "s3://new/train/0.tar"])
    {'/old/in/train/0.tar': 's3://new/train/0.tar', '/old/in/val/0.tar': 's3://new/val/0.tar'}
    """
    left_a, left_b = list(dict.fromkeys(a)), list(dict.fromkeys(b))
    pairs: dict[str, str] = {}
    for parts in range(max((url.count("/") + 1 for url in left_a), default=0), 0, -1):
        ends_a, ends_b = (_ends(urls, parts) for urls in (left_a, left_b))
        pairs |= {url: ends_b[end] for end, url in ends_a.items() if end in ends_b}
        left_a = [url for url in left_a if url not in pairs]
        taken = set(pairs.values())
        left_b = [url for url in left_b if url not in taken]
    return pairs


def _ends(urls: list[str], parts: int) -> dict[tuple[str, ...], str]:
    """URLs by their last parts, where no other has the same."""
    ends = {url: tuple(url.split("/")[-parts:]) for url in urls}
    counts = Counter(ends.values())
    return {end: url for url, end in ends.items() if counts[end] == 1 and len(end) == parts}


def _fingerprints(export: Export) -> dict[str, Any]:
    return {entry.shard.ref.url: entry.shard.fingerprint for entry in export.manifest.shards}


def _lines(export: Export) -> pa.Table:
    """The images, and the failures, whose sizes are null."""
    images, failures = export.images.select([*KEY, "width", "height"]), export.failures.select(KEY)
    return pa.concat_tables([images, failures], promote_options="default")
