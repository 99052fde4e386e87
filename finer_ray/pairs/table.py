"""The table of pairs: from an export's tables and contrast basis, with no model, a batch of images at a time.

Memory grows with the number of pairs, not with that of images.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finer_ray.pairs.evidence import PairSums, cosines, evidence, ratio
from finer_ray.saliency.parts import one_id_a_name
from finer_ray.store import derived
from finer_ray.store.query import connect
from finer_ray.store.reading import Export
from finer_ray.store.tables import PAIRS

NAME = "pairs"
# Images that are named as showing a pair most, and as many as showing it least.
NAMED = 3
# Numbers of the basis that are in memory at a time.
NUMBERS_AT_A_TIME = 2**20
# Pairs that occur, and how many images of one class were taken for the other; null where no image has its label.
COUNTED = """
WITH asked AS (
    SELECT DISTINCT class, reference
    FROM (SELECT target AS class, unnest("references") AS reference FROM images) WHERE reference >= 0
), labelled AS (
    SELECT DISTINCT label FROM images WHERE label IS NOT NULL
), taken AS (
    SELECT label, predicted, count(*) AS images FROM images WHERE label <> predicted GROUP BY ALL
)
SELECT class, reference,
       CASE WHEN class IN (FROM labelled) THEN coalesce(forth.images, 0) END AS confused,
       CASE WHEN reference IN (FROM labelled) THEN coalesce(back.images, 0) END AS confused_back
FROM asked
LEFT JOIN taken AS forth ON forth.label = class AND forth.predicted = reference
LEFT JOIN taken AS back ON back.label = reference AND back.predicted = class
ORDER BY class, reference"""
Watch = Callable[[int], None]


def unwatched(images: int) -> None:
    """Takes no notice of how many images more are done."""


def pairs_table(export: Export, weight: NDArray[np.float32] | None = None, watch: Watch = unwatched) -> pa.Table:
    """What an export says of each two classes of which one is a reference of the other's images.

    Args:
        export: any; of several targets an image the first counts.
        weight: (C, E), of the classifier, for the cosines; None: those that are in a table of an earlier state.
        watch: called with how many images more are done.

    Returns:
        A table with the schema PAIRS, sorted by class and reference; empty where images have no references.

    >>> from finer_ray.store.reading import open_export
    >>> table = pairs_table(open_export("demo_export"))
    >>> table.num_rows, table["name"][0].as_py(), table["reference_name"][0].as_py()
    (24, 'tench', 'goldfish')
    """
    with connect(export) as connection:
        counted = connection.sql(COUNTED).to_arrow_table()
    pairs = _classes_of(counted)
    names = np.array(export.manifest.classes, object)
    columns = {name: counted[name] for name in counted.column_names}
    columns["name"], columns["reference_name"] = (pa.array(names[side], pa.string()) for side in pairs.T)
    columns["cosine"] = _null(_earlier_cosines(export, pairs) if weight is None else cosines(weight, pairs))
    parts = list(export.part_names) if export.manifest.layout.parts else []
    columns |= _columns(_summed(export, pairs, parts, watch), parts)
    return pa.table([columns[name] for name in PAIRS.names], PAIRS)


def news(export: Export, weight: NDArray[np.float32] | None = None, watch: Watch = unwatched) -> pa.Table | None:
    """The table as `finer_ray.store.derived.write` is to write it; None where it is there, and nothing is to be added.

    Args:
        export: any.
        weight, watch: see `pairs_table`. A table that lacks cosines gets them.

    Raises:
        ExportError: there is a file of the table's name that is none of ours.
    """
    derived.check_vacant(export, NAME)
    if not derived.is_current(export, NAME):
        return pairs_table(export, weight, watch)
    table = derived.read(export, NAME)
    if weight is None or not table["cosine"].null_count:
        return None
    completed = _with_cosines(table, weight)
    return completed if completed["cosine"].null_count < table["cosine"].null_count else None


def _with_cosines(table: pa.Table, weight: NDArray[np.float32]) -> pa.Table:
    found = _null(cosines(weight, _classes_of(table)))
    return table.set_column(PAIRS.get_field_index("cosine"), PAIRS.field("cosine"), found)


def _classes_of(table: pa.Table) -> NDArray[np.int64]:
    """Class and reference of each pair, (P, 2)."""
    return np.stack([table[name].to_numpy() for name in ("class", "reference")], axis=1).astype(np.int64)


def _earlier_cosines(export: Export, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of some pairs, (P,), as the table of an earlier state of the export has them: its classifier is the same. NaN
    where it has none."""
    found = np.full(len(pairs), np.nan, np.float32)
    before = derived.earlier(export, NAME)
    if before is not None:
        ours, theirs = (_keys(classes, export) for classes in (pairs, _classes_of(before)))
        _, here, there = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
        found[here] = before["cosine"].to_numpy()[there]
    return found


def _keys(pairs: NDArray[np.integer[Any]], export: Export) -> NDArray[np.int64]:
    """A number for each pair (..., 2) of classes, in their order."""
    keys: NDArray[np.int64] = pairs[..., 0].astype(np.int64) * len(export.manifest.classes) + pairs[..., 1]
    return keys


def _summed(export: Export, pairs: NDArray[np.int64], parts: list[str], watch: Watch) -> PairSums:
    """Sums over all images, a batch at a time, in the order of rows."""
    layout, keys = export.manifest.layout, _keys(pairs, export)
    sums, ids = PairSums(len(pairs), len(parts), NAMED), one_id_a_name(parts)
    if not len(pairs):
        return sums
    gamma = export.manifest.config["saliency"]["gamma"]
    step = max(1, NUMBERS_AT_A_TIME // ((1 + layout.references) * math.prod(layout.grid)))
    for batch in export.batches("images", ["row", "target", "references", "logit", "reference_logits"]):
        for first in range(0, len(batch), step):
            lines = batch.slice(first, step)
            rows, target, logit = (lines[name].to_numpy() for name in ("row", "target", "logit"))
            references, logits = (_lists(lines[name], layout.references) for name in ("references", "reference_logits"))
            # Those that there are, and where they stand: (m,) images and (m,) places among their references.
            image, place = np.nonzero(references >= 0)
            classes = np.stack([target[image], references[image, place]], axis=1)
            pair = np.searchsorted(keys, _keys(classes, export))
            sums.add_gaps(pair, logit[image].astype(np.float64) - logits[image, place])
            if layout.basis:
                found = evidence(export.stored("basis", rows), export.stored("basis_scale", rows), gamma)
                shown = ids[export.parts(rows)][image] if parts else None
                sums.add_evidence(pair, rows[image], found[image, place], shown)
            watch(len(lines))
    return sums


def _lists(lists: pa.ListArray, length: int) -> NDArray[Any]:
    """Lists of one length as an array (n, length)."""
    values: NDArray[Any] = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, length)


def _columns(sums: PairSums, parts: list[str]) -> dict[str, Any]:
    """The columns that come of sums over images."""
    occur = sums.part_cells > 0
    shares = ((sums.on_parts, sums.with_parts), (sums.part_cells, sums.all_cells))
    on_parts, part_cells = (_by_part(ratio(of_part, of_all[:, None]), occur, parts) for of_part, of_all in shares)
    return {
        "images": sums.images,
        "logit_gap": sums.gap / sums.images,
        "evidence": _null(ratio(sums.evidence, sums.compared)),
        "evidence_positive": _null(ratio(sums.positive, sums.compared)),
        "parts": on_parts,
        "part_cells": part_cells,
        "most": _named(sums.most.rows),
        "least": _named(sums.least.rows),
    }


def _by_part(shares: NDArray[np.float64], occur: NDArray[np.bool_], parts: list[str]) -> pa.Array:
    """A map from parts to shares for each pair, of the parts that occur; null where none does."""
    pair, part = np.nonzero(occur)
    names = pa.array(np.array(parts, object)[part], pa.string())
    return pa.MapArray.from_arrays(_offsets(occur), names, _null(shares[pair, part]))


def _named(rows: NDArray[np.int64]) -> pa.Array:
    """The rows that there are, a list for each pair; null where there is none."""
    return pa.ListArray.from_arrays(_offsets(rows >= 0), rows[rows >= 0])


def _offsets(there: NDArray[np.bool_]) -> pa.Array:
    """Where the list of each line begins that holds what is there, (n, k), and null where nothing is."""
    counts = there.sum(1)
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.array(ends, mask=np.append(counts == 0, False))


def _null(values: NDArray[np.floating[Any]]) -> pa.Array:
    """Arrow takes NaN for null here."""
    return pa.array(values, from_pandas=True)
