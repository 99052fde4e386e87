"""Embeddings: labelled rows of exports, read piece by piece."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.errors import ExportError
from finer_ray.store.reading import Export

# Rows that are read together: whole chunks, this many where they allow it.
PIECE_ROWS = 2048
Block = tuple[NDArray[np.float16], NDArray[np.int32]]
Wanted = Callable[[Sequence[str | None]], NDArray[np.bool_]]


class Embeddings:
    """Embeddings with labels, for one part of a data set; memory holds some pieces of them, never all.

    Labels lie in a temporary file, 4 bytes a row; in memory are 16 bytes for each piece.

    Attributes:
        size: E.
        counts: (C,) int64, images of each class.
        unlabelled: images that have no label, or none that their export's model has a class for, and are not used.
        unknown: images whose label is none of the C classes, or that failed for their label, and are not used.
        failed: images and shards that the exports list as failures for other reasons.
    """

    def __init__(
        self, exports: Sequence[Export], classes: int, wanted: Wanted | None = None, cache_rows: int = 0
    ) -> None:
        """Look at the tables of images, once.

        Args:
            exports: with embeddings of one size.
            classes: C; a label is an index below it.
            wanted: from keys to those that belong to this part; all when None.
            cache_rows: rows that stay in memory once they are read.

        Raises:
            ExportError: an export has no embeddings, or they differ in size.
        """
        self.counts = np.zeros(classes, np.int64)
        self.unlabelled = self.unknown = self.failed = 0
        self.size = _size(exports)
        self._arrays = [export.tensors["embedding"] for export in exports]
        self._labels = [self._look(export, wanted or _everything) for export in exports]
        chunks = [export.manifest.layout.rows_per_chunk for export in exports]
        self._steps = [chunk * max(1, PIECE_ROWS // chunk) for chunk in chunks]
        self._pieces = np.array(
            [
                (place, first)
                for place, (labels, step) in enumerate(zip(self._labels, self._steps, strict=True))
                for first in range(0, len(labels), step)
                if (labels[first : first + step] >= 0).any()
            ],
            np.int64,
        ).reshape(-1, 2)
        self._read = lru_cache(cache_rows // PIECE_ROWS)(self._read_piece)

    def __len__(self) -> int:
        """Images that are used."""
        return int(self.counts.sum())

    def blocks(self) -> Iterator[Block]:
        """All rows in their order: embeddings (n, E) float16 and labels (n,) int32, one piece at a time."""
        for place, first in self._pieces.tolist():
            yield self._read(place, first)

    def _read_piece(self, place: int, first: int) -> Block:
        rows = slice(first, first + self._steps[place])
        labels = self._labels[place][rows]
        used = labels >= 0
        return self._arrays[place][rows][used], np.array(labels[used])

    def _look(self, export: Export, wanted: Wanted) -> NDArray[np.int32]:
        """Labels by row of an export, -1 for rows that are not used."""
        with tempfile.TemporaryFile() as file:
            labels = np.memmap(file, np.int32, "w+", shape=(export.manifest.rows(),))
        labels[:] = -1
        for batch in export.batches("images", ["row", "key", "label"]):
            mine = batch.filter(pa.array(wanted(batch["key"].to_pylist())))
            found = mine["label"].fill_null(-1).to_numpy()
            known = (found >= 0) & (found < len(self.counts))
            self.unlabelled += mine["label"].null_count
            self.unknown += int((~known).sum()) - mine["label"].null_count
            self.counts += np.bincount(found[known], minlength=len(self.counts))
            labels[mine["row"].to_numpy()[known]] = found[known]
        for batch in export.batches("failures", ["key", "stage"]):
            mine = batch.filter(pa.array(wanted(batch["key"].to_pylist())))
            unknown = mine["stage"].to_pylist().count("label")
            self.unknown += unknown
            self.failed += len(mine) - unknown
        return labels


def held_out(share: float, seed: int, inverse: bool = False) -> Wanted:
    """Which keys belong to a share of all, by a hash of the key: the same image always falls on the same side.

    Args:
        share: 0 to 1.
        seed: another seed, other keys.
        inverse: the other side.
    """

    def wanted(keys: Sequence[str | None]) -> NDArray[np.bool_]:
        digests = (hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest() for key in keys)
        inside = np.fromiter((int.from_bytes(digest, "big") < share * 2**64 for digest in digests), bool, len(keys))
        return ~inside if inverse else inside

    return wanted


def _everything(keys: Sequence[str | None]) -> NDArray[np.bool_]:
    return np.ones(len(keys), bool)


def _size(exports: Sequence[Export]) -> int:
    sizes = {export.manifest.layout.embedding for export in exports}
    if None in sizes:
        raise ExportError("an export has no embeddings: it was made with output.embedding: false")
    if len(sizes) != 1:
        raise ExportError(f"the exports have embeddings of different sizes: {sorted(filter(None, sizes))}")
    return int(sizes.pop() or 0)
