"""Fetching all that a model needs into the local caches, for machines without a network.

The model is built as a job builds it, so that what is in the caches afterwards is what the job will look for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models.classifier import build_classifier


@dataclass(frozen=True, slots=True)
class Fetched:
    """An entry of a cache that was added to.

    Attributes:
        path: of a repository's folder, or a file.
        bytes: that were added.
    """

    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """What was done for a model.

    Attributes:
        fetched: what was not there before; () where all was.
        sources: repositories that the model comes from, and their commits.
        caches: the folders that a job looks into, which is what must be brought to another machine.
    """

    fetched: tuple[Fetched, ...]
    sources: Mapping[str, str]
    caches: tuple[Path, ...]

    def lines(self) -> list[str]:
        """For people: what, where, and how large."""
        said = [f"{entry.bytes / 1e6:.1f} MB fetched: {entry.path}" for entry in self.fetched]
        said += [f"{name} is at commit {commit}" for name, commit in self.sources.items()]
        if not self.fetched:
            said.append("nothing had to be fetched: the model was whole")
        places = " and ".join(str(cache) for cache in self.caches)
        return [*said, f"a job needs no network now (HF_HUB_OFFLINE=1); on another machine it needs {places}"]


def fetch(config: ModelConfig) -> Fetch:
    """Build a model, and say what that added to the caches.

    Args:
        config: the section `model`.

    Raises:
        ConfigError: HF_HUB_OFFLINE is set, or the model cannot be built.
    """
    if constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE is set, with which nothing can be fetched: unset it")
    before = _entries()
    classifier = build_classifier(config)
    after = _entries()
    fetched = [Fetched(path, size - before.get(path, 0)) for path, size in sorted(after.items())]
    caches = tuple(sorted({cache for cache in _caches() for path in after if path.is_relative_to(cache)}))
    return Fetch(tuple(entry for entry in fetched if entry.bytes > 0), classifier.sources, caches or _caches()[:1])


def _caches() -> tuple[Path, ...]:
    """Folders of the hub's repositories, of torch's downloads, and of OpenAI's CLIP weights (open_clip)."""
    return Path(constants.HF_HUB_CACHE), Path(torch.hub.get_dir()) / "checkpoints", Path("~/.cache/clip").expanduser()


def _entries() -> dict[Path, int]:
    """What the caches hold: repositories and files, with their bytes."""
    entries = [entry for cache in _caches() if cache.is_dir() for entry in cache.iterdir()]
    return {entry: _bytes(entry) for entry in entries if not entry.name.startswith(".")}


def _bytes(entry: Path) -> int:
    """Of a file, or of all in a folder; links are the hub's names of its blobs, and count nothing."""
    files = entry.rglob("*") if entry.is_dir() else [entry]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
