"""Which images there are of each pair of classes, and their candidate cells, read in one pass over the export."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.config.messages import nearest
from finer_ray.errors import ExportError, QueryError
from finer_ray.saliency.parts import one_id_a_name
from finer_ray.store.reading import Export

Places = NDArray[np.int64]
# Of things to do, and a word for it, one by one.
Watch = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Index:
    """Images of an export and what they are compared with.

    Attributes:
        rows: (n,) int64, ascending.
        targets: (n,) int32.
        references: (n, K) int32; -1 where there is none.
    """

    rows: NDArray[np.int64]
    targets: NDArray[np.int32]
    references: NDArray[np.int32]

    @cached_property
    def pairs(self) -> dict[tuple[int, int], Places]:
        """By ordered pair (a, b) the places of a's images that are compared with b, ascending."""
        place, column = np.nonzero(self.references >= 0)
        count = 1 + int(self.references.max(initial=0))
        asked = self.targets[place].astype(np.int64) * count + self.references[place, column]
        return {divmod(pair, count): place[these] for pair, these in _groups(asked)}

    @cached_property
    def classes(self) -> dict[int, Places]:
        """By class the places of its images, ascending."""
        return dict(_groups(self.targets))


def read_index(export: Export) -> Index:
    """The index of an export; 12 + 4 K bytes an image."""
    rows, targets, references = [], [], []
    count = export.manifest.layout.references
    for batch in export.batches("images", ["row", "target", "references"]):
        rows.append(batch["row"].to_numpy())
        targets.append(batch["target"].to_numpy())
        references.append(pc.list_flatten(batch["references"]).to_numpy().reshape(len(batch), count))
    if not rows:
        raise ExportError(f"{export.folder.url} holds no image")
    order = np.argsort(np.concatenate(rows))
    return Index(np.concatenate(rows)[order], np.concatenate(targets)[order], np.concatenate(references)[order])


def spread(places: Places, most: int) -> Places:
    """At most so many places, evenly spaced.

    >>> spread(np.arange(10), 3).tolist()
    [0, 4, 9]
    """
    if len(places) <= most:
        return places
    chosen: Places = places[np.linspace(0, len(places) - 1, most).astype(np.int64)]
    return chosen


def gather(export: Export, rows: NDArray[np.int64], watch: Watch) -> NDArray[Any]:
    """The candidate cells of some images, in a temporary file, so that memory does not grow with their number.

    Args:
        export: with the array `patches` and the contrast basis.
        rows: (n,) of its images, in the order wanted; none twice.
        watch: told of the units that are read.

    Returns:
        (n,) structured: row; cells (P,) int32, -1 where there is none; basis (1+K, P) float32, M_j there; features
        (P, F) float16; inside, how many cells of the grid are the image's own; parts (h * w,) uint8, empty where the
        export has none.

    Raises:
        ExportError: the export has no basis, or no patches; with what to do.
    """
    layout = export.manifest.layout
    if not layout.basis:
        raise ExportError("the export has no contrast basis: it was made with output.basis: false")
    sizes = [values.shape[1:] for values in export.patches(rows[:0])]
    kinds: list[Any] = [
        ("row", np.int64),
        ("cells", np.int32, sizes[0]),
        ("basis", np.float32, (1 + layout.references, *sizes[0])),
        ("features", np.float16, sizes[1]),
        ("inside", np.int32),
        ("parts", np.uint8, (layout.grid[0] * layout.grid[1] * layout.parts,)),
    ]
    if not len(rows):
        return np.empty(0, np.dtype(kinds))
    # The file has no name, and goes when the array does.
    with tempfile.TemporaryFile() as file:
        images = np.memmap(file, np.dtype(kinds), "w+", shape=len(rows))
    for places in watch(_by_unit(rows, layout.rows_per_unit), "reading"):
        these = rows[places]
        cells, features = export.patches(these)
        maps = export.stored("basis", these).reshape(len(these), 1 + layout.references, -1)
        there = np.take_along_axis(maps, np.maximum(cells, 0)[:, None], axis=2).astype(np.float32)
        images["row"][places], images["cells"][places], images["features"][places] = these, cells, features
        images["basis"][places] = there * export.stored("basis_scale", these)[:, None, None]
        images["inside"][places] = (~np.isnan(maps[:, 0])).sum(1)
        if layout.parts:
            images["parts"][places] = one_id_a_name(export.part_names)[export.parts(these)].reshape(len(these), -1)
    return images


def read_attributes(export: Export, column: str, rows: NDArray[np.int64]) -> dict[int, frozenset[str]]:
    """Attributes of some images, by row, out of a column of the user's own: a JSON list of texts, or texts with `;`
    between them.

    Raises:
        QueryError: no such column.
    """
    own = export.manifest.columns
    if column not in own:
        known = f"; it has {', '.join(own)}" if own else ": name it in input.columns, and run the job again"
        raise QueryError(f"--attributes: `images` has no column {column!r} of your own{nearest(column, [*own])}{known}")
    found: dict[int, frozenset[str]] = {}
    if not len(rows):
        return found
    wanted = np.sort(rows)
    for batch in export.batches("images", ["row", column]):
        numbers = batch["row"].to_numpy()
        near = np.searchsorted(wanted, numbers).clip(max=len(wanted) - 1)
        for place in np.flatnonzero(wanted[near] == numbers).tolist():
            found[int(numbers[place])] = _texts(batch[column][place].as_py())
    return found


def _texts(value: Any) -> frozenset[str]:
    """The texts of one cell.

    >>> sorted(_texts('["red bill", "pink legs"]')), sorted(_texts("red bill; pink legs")), sorted(_texts(None))
    (['pink legs', 'red bill'], ['pink legs', 'red bill'], [])
    """
    if value is None:
        return frozenset()
    text = str(value)
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            listed = None
        if isinstance(listed, list):
            return frozenset(str(item).strip() for item in listed)
    return frozenset(item.strip() for item in text.split(";") if item.strip())


def _groups(values: NDArray[np.integer[Any]]) -> Iterator[tuple[int, Places]]:
    """Each distinct value, in ascending order, and where it stands."""
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    # Of no values there is one piece, an empty one.
    return zip(distinct.tolist(), np.split(order, starts[1:])[: len(distinct)], strict=True)


def _by_unit(rows: NDArray[np.int64], size: int) -> list[Places]:
    """Places of rows, those of one unit after those of another, each in ascending order of its rows."""
    order = np.argsort(rows)
    return np.split(order, np.flatnonzero(np.diff(rows[order] // size)) + 1)
