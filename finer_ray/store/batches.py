"""Batches: rows of an export that are read together, and then asked for one by one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.store.reading import Export, Rows

# Rows of one batch: a new one begins with a unit once there are FEW, and anyway after MANY. Photos are read unit by
# unit, so that a unit in two batches is read twice.
FEW, MANY = 32, 128


@dataclass(frozen=True)
class Batch:
    """Some rows, sorted, and their lines of `images` and `metrics`."""

    rows: list[int]
    images: pa.Table
    metrics: pa.Table


class Held(Export):
    """An export as if it had the rows of a batch alone: their lines, and arrays that are read once for all of them."""

    def __init__(self, export: Export, batch: Batch) -> None:
        super().__init__(export.folder, export.manifest)
        self.images, self.metrics, self.tensors = batch.images, batch.metrics, export.tensors
        self._held = np.array(batch.rows, np.int64)
        self._arrays: dict[tuple[str, int], NDArray[Any]] = {}

    def stored(self, name: str, rows: Rows, target: int = 0, *places: int) -> NDArray[Any]:
        """As of `Export`; of rows of the batch alone."""
        wanted = self._rows(rows)
        if not np.isin(wanted, self._held).all():
            raise IndexError(f"rows {wanted.tolist()} are not all of the batch")
        if (name, target) not in self._arrays:
            self._arrays[name, target] = super().stored(name, self._held, target)
        found: NDArray[Any] = self._arrays[name, target][(np.searchsorted(self._held, wanted), *places)]
        return found


def batches(export: Export, rows: Sequence[int]) -> list[list[int]]:
    """Rows, sorted, in batches."""
    size, found = export.manifest.layout.rows_per_unit, list[list[int]]()
    for row in rows:
        last = found[-1] if found else []
        if not last or len(last) >= MANY or (len(last) >= FEW and row // size != last[-1] // size):
            found.append([])
        found[-1].append(row)
    return found


def with_lines(export: Export, groups: Sequence[list[int]]) -> Iterator[Batch]:
    """Batches with their lines; the tables are gone through once."""
    wanted = [row for rows in groups for row in rows]
    tables = [of_rows(table, wanted) for table in (export.images, export.metrics)]
    known = [table["row"].to_numpy() for table in tables]
    for rows in groups:
        pieces = []
        for table, numbers in zip(tables, known, strict=True):
            first, end = np.searchsorted(numbers, [rows[0], rows[-1] + 1])
            # A slice would be pickled with all that it is a part of.
            pieces.append(table.take(np.arange(first, end)))
        yield Batch(rows, *pieces)


def of_rows(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Lines of some rows, by row, and else as they are."""
    return table.filter(pc.is_in(table["row"], pa.array(rows, pa.int64()))).sort_by("row")
