"""The training set: siblings that stand alike, and scenes without a bird."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.progress import track

from birds.captions import EMPTY
from birds.pictures import SIBLINGS, Picture, rendered
from birds.species import SPECIES

NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class TrainingSet:
    """Pictures and labels.

    Attributes:
        pixels: (N, H, W, 4) uint8, memory-mapped: RGB, and in the last channel the part map, 0 where no bird is. First
            families of four siblings that share pose, scene and light, then scenes without a bird.
        labels: (N,) species; EMPTY where there is no bird.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def rendered(cls, per_class: int, size: int, cache: Path) -> Self:
        """The set, rendered once.

        Args:
            per_class: pictures of each species; as many, and no more, are without a bird.
            size: H = W, pixels.
            cache: folder in which the pixels are kept.
        """
        families = [Picture("train", number, size, alike=True) for number in range(per_class * len(SPECIES))]
        empty = [Picture("train", len(families) + number, size, empty=True) for number in range(per_class)]
        todo = [*families, *empty]
        path = cache / f"birds-{per_class}-{size}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            sheet = open_memmap(partial, "w+", np.uint8, (len(todo), size, size, 4))
            for place, rendering in enumerate(track(rendered(todo), "rendering", total=len(todo))):
                sheet[place] = np.dstack([rendering.image, rendering.parts])
            sheet.flush()
            partial.rename(path)
        labels = [picture.label for picture in families] + [EMPTY] * len(empty)
        return cls(np.load(path, mmap_mode="r"), np.array(labels))

    def batch(self, step: int, size: int, seed: int, repeated: Mapping[str, int] = NONE) -> NDArray[np.int64]:
        """Rows of a step: whole families, and a picture without a bird for every fifteen others.

        A batch in which siblings stand alike leaves nothing to tell them apart but the parts that differ.

        Args:
            step: from 0 on; what it takes depends on nothing but step and seed, so that a training can be resumed.
            size: pictures of a batch, at least 8; as many as make whole families are taken.
            seed: of the order.
            repeated: times that families of a genus come in a pass; 1 of those that are not named.
        """
        families, scenes = self._counts(size)
        turn, place = divmod(step, self.steps(size, repeated))
        order = np.random.default_rng((seed, 0, turn)).permutation(self._families(repeated))
        chosen = SIBLINGS * order[place * families : (place + 1) * families, None] + np.arange(SIBLINGS)
        empty = np.random.default_rng((seed, 1, step)).integers(self._birds, len(self.labels), scenes)
        # In ascending order, as a memory-mapped file likes it.
        return np.sort([*chosen.ravel(), *empty])

    def groups(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each of a batch's rows its family, (B,), numbered from 0 on; a scene without a bird is one of its own."""
        families = np.where(rows < self._birds, rows // SIBLINGS, self._birds + rows)
        numbers: NDArray[np.int64] = np.unique(families, return_inverse=True)[1]
        return numbers

    def steps(self, size: int, repeated: Mapping[str, int] = NONE) -> int:
        """Batches of one pass over the set."""
        return len(self._families(repeated)) // self._counts(size)[0]

    def _families(self, repeated: Mapping[str, int]) -> NDArray[np.int64]:
        """Families of a pass."""
        genera = [SPECIES[label].genus for label in self.labels[: self._birds : SIBLINGS]]
        return np.repeat(np.arange(len(genera)), [repeated.get(genus, 1) for genus in genera])

    @property
    def _birds(self) -> int:
        return int((self.labels != EMPTY).sum())

    def _counts(self, size: int) -> tuple[int, int]:
        scenes = max(1, size // 16)
        return (size - scenes) // SIBLINGS, scenes
