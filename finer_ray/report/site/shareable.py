"""Shareable words: what a page says of places, without the folders of the machine that the report was made on."""

import re
from collections.abc import Iterable
from os.path import commonprefix
from typing import Any

from finer_ray.store.manifest import Manifest
from finer_ray.urls import redacted

# An absolute path, `file:` before it or not, up to its last part. No URL: in one a host or a slash comes before.
_FOLDERS = re.compile(r"(?:\bfile:/{0,2}|(?<![\w/.~\]-]))/(?:[^\s/'\"<>|,;:(){}\[\]]+/+)+(?=[^\s/'\"<>|,;:(){}\[\]])")
# The whole of a value, or what stands in quotes, may hold blanks.
_WHOLE = re.compile(r"(?:file:/{0,2})?/(?!/).*/(?=.)", re.DOTALL)
_QUOTED = re.compile(r"(?<=['\"])(?:file:/{0,2})?/(?!/)[^'\"\n]*/(?=[^'\"\n/])")


def shareable(text: str, known: str = "") -> str:
    """A message with its absolute paths cut down to their last parts, and without the secrets of its URLs.

    Args:
        text: any.
        known: a folder that may be in it, whose name may hold blanks.

    >>> shareable("/home/anna/in/a.tar: its photos cannot be read again: s3://bucket/in/b.tar")
    'a.tar: its photos cannot be read again: s3://bucket/in/b.tar'
    """
    text = text.replace(f"{known}/", "") if known.strip("/") else text
    return redacted(_FOLDERS.sub("", _QUOTED.sub("", text)))


def shareable_config(config: Any) -> Any:
    """A config, or a part of one, in which absolute paths are cut down to their last parts; URLs stay, without secrets.

    >>> shareable_config({"shards": ["/home/anna/my photos/a.tar", "s3://bucket/in/*.tar"], "gamma": 0.6})
    {'shards': ['a.tar', 's3://bucket/in/*.tar'], 'gamma': 0.6}
    """
    if isinstance(config, dict):
        return {key: shareable_config(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [shareable_config(value) for value in config]
    if not isinstance(config, str):
        return config
    found = _WHOLE.match(config.rstrip("/"))
    return shareable(config[found.end() :] if found else config)


def shareable_manifest(manifest: Manifest) -> Manifest:
    """A manifest as pages may print it; its shards keep their URLs, by which `ShardNames` knows what they share."""
    versions = {shareable(name): version for name, version in manifest.versions.items()}
    return manifest.model_copy(update={"config": shareable_config(manifest.config), "versions": versions})


class ShardNames:
    """Names of shards, relative to the folder that all of them lie in.

    >>> names = ShardNames(["/home/anna/in/train/a.tar", "/home/anna/in/val/a.tar"])
    >>> names("/home/anna/in/val/a.tar")
    'val/a.tar'
    """

    def __init__(self, urls: Iterable[str]) -> None:
        # Its paths may be lists of parts; commonpath knows no URLs.
        self._common = "/".join(commonprefix([url.split("/")[:-1] for url in urls]))  # noqa: RUF071

    def __call__(self, url: str) -> str:
        """The name of a shard; the last part of a path that lies elsewhere."""
        return str(shareable_config(url.removeprefix(f"{self._common}/") if self._common else url))

    def text(self, text: str) -> str:
        """As `shareable`, of a message that may name the shards."""
        return shareable(text, self._common if self._common.startswith("/") else "")
