"""Pictures: the members of a split, and their rendering by several processes."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from birds.mark import marked
from birds.rendering import Rendering, render, render_empty
from birds.scene import SIZE
from birds.species import SPECIES
from finer_ray.config.messages import nearest
from finer_ray.errors import ConfigError

# The first seed of each split; a split has fewer pictures than lie between them.
SPLITS = {"train": 0, "test": 1_000_000_000}
# Species of a genus, which follow each other in SPECIES.
SIBLINGS = 4


@dataclass(frozen=True)
class Picture:
    """One picture to make: the `number`-th of a split; labels take turns, so that any beginning is balanced.

    Attributes:
        split: train or test.
        number: from 0 on.
        size: side in pixels.
        mark: whether it bears its class's mark.
        empty: whether it shows the scene alone.
        alike: whether the four siblings that follow each other share pose, scene and light, so that nothing but their
            differing parts tells them apart.
    """

    split: str
    number: int
    size: int = SIZE
    mark: bool = False
    empty: bool = False
    alike: bool = False

    @property
    def label(self) -> int:
        """Index into SPECIES."""
        return self.number % len(SPECIES)

    @property
    def seed(self) -> int:
        """Of pose, scene and light; no other picture of any split has it, unless they are alike."""
        return SPLITS[self.split] + (self.number // SIBLINGS if self.alike else self.number)

    def render(self) -> Rendering:
        """Its pixels and parts."""
        if self.empty:
            return render_empty(self.seed, self.size)
        rendering = render(SPECIES[self.label], self.seed, self.size)
        return marked(rendering, self.label) if self.mark else rendering


def pictures(
    split: str,
    per_class: int,
    size: int = SIZE,
    mark: bool = False,
    skipped: int = 0,
    genus: str | None = None,
) -> list[Picture]:
    """The first `per_class` pictures of every species, or of every one of a genus, after `skipped` others.

    Raises:
        ConfigError: unknown split or genus, or more pictures than a split has seeds.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split: {split!r} is neither {' nor '.join(SPLITS)}{nearest(split, list(SPLITS))}")
    first, count = skipped * len(SPECIES), per_class * len(SPECIES)
    if first + count > SPLITS["test"]:
        raise ConfigError(f"--per-class: {per_class} is too many; a split has {SPLITS['test']} pictures at most")
    genera = {species.genus for species in SPECIES}
    if genus is not None and genus not in genera:
        raise ConfigError(f"--genus: {genus!r} is none of {', '.join(sorted(genera))}{nearest(genus, sorted(genera))}")
    every = (Picture(split, number, size, mark) for number in range(first, first + count))
    return [picture for picture in every if genus is None or SPECIES[picture.label].genus == genus]


def rendered(todo: Sequence[Picture], workers: int | None = None) -> Iterator[Rendering]:
    """Renderings in order, made by several processes (None: one per CPU)."""
    # Spawned, because a forked process may inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(Picture.render, todo, chunksize=8)
