"""Name of a data set, from where its shards lie."""

import re
from collections.abc import Sequence

# Names that say nothing of what is inside.
PLAIN = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev|all|data|dataset|datasets|shards?|parts?|images?|imgs?|"
    r"webdataset|wds|tars?|parquets?|out|input|main|)[-_]*"
)
# What stands for many names: a wildcard, or a range.
MANY = re.compile(r"[*?\[{]")
NAMES = 3


def data_name(shards: Sequence[str]) -> str:
    """What a report calls the data set: the folders, or the single files, that hold it.

    A name that says nothing, such as `train`, gives way to that of the folder above it.

    Args:
        shards: as in the config's `input.shards`: files, folders, patterns, ranges, URLs.

    >>> data_name(["s3://bucket/birds/train-{0000..0999}.tar"])
    'birds'
    >>> data_name(["/data/birds/*.tar", "/data/finches/*.tar"])
    'birds, finches'
    >>> data_name(["photos.parquet"])
    'photos'
    """
    names = list(dict.fromkeys(name for url in shards if (name := _name(url, alone=len(shards) == 1))))
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(names[:NAMES]) + more or "Images"


def _name(url: str, alone: bool) -> str:
    path = re.sub(r"^[a-z0-9+]+://", "", url.split("?")[0] if "://" in url else url, flags=re.IGNORECASE)
    *folders, last = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
    file = re.fullmatch(r"(.*?)(\.[A-Za-z0-9]{1,8})+", last)
    # One of many files is named by its folder; a file alone, and a folder, by its own name.
    one_of_many = MANY.search(last) or (file and not alone)
    parts = folders if one_of_many else [*folders, file[1] if file else last]
    return next((part for part in reversed(parts) if not MANY.search(part) and not _plain(part)), "")


def _plain(name: str) -> bool:
    return PLAIN.fullmatch(re.sub(r"[\d_.-]+$", "", name.lower())) is not None
