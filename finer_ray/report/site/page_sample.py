"""The sample: which classes and which images of an export get a page; bounded, and the same for the same seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.metrics.table import JUDGES
from finer_ray.report.best_map import best_map
from finer_ray.report.site.asked import Asked
from finer_ray.store.reading import Export

T = TypeVar("T")
# Best, median and worst images of a class: as many of each.
PICKS = 3
RANKED = """
WITH valued AS (
    SELECT i.row, coalesce(i.label, i.target) AS class, i.predicted_probability, CAST({value} AS DOUBLE) AS value
    FROM images AS i LEFT JOIN metrics AS m ON m.row = i.row AND m.map = $map
), ranked AS (
    SELECT row, class, value, count(*) OVER (PARTITION BY class) AS size, row_number() OVER (
        PARTITION BY class ORDER BY {sign} * value DESC NULLS LAST, predicted_probability DESC, row
    ) AS rank FROM valued WHERE list_contains($classes, class)
)
SELECT * FROM ranked
WHERE size <= 3 * $picks OR rank <= $picks OR rank > size - $picks OR abs(2 * rank - size - 1) < $picks
ORDER BY class, rank
"""


@dataclass(frozen=True)
class Sample:
    """What a report shows.

    Attributes:
        classes: indices of the classes that get a page.
        rows: of the seeded sample of images, sorted.
        picks: by class, lines with row, value, rank and size: the best, median and worst of its images, in order.
        by: the metric that ranks them; None where no image has one, and the prediction's probability ranks them.
        map: whose metric that is.
        asked: the images that pages are kept to; None: drawn from all.
    """

    classes: list[int]
    rows: list[int]
    picks: dict[int, list[dict[str, Any]]]
    by: str | None
    map: str | None
    asked: Asked | None = None

    def pages(self) -> list[int]:
        """Rows of all images that get a page, sorted."""
        return sorted({*self.rows, *(line["row"] for lines in self.picks.values() for line in lines)})


def draw_sample(export: Export, images: int, classes: int, seed: int, asked: Asked | None = None) -> Sample:
    """Draw images at random, the largest classes (a seeded choice among equals), and their outstanding images.

    Args:
        export: any.
        images, classes: at most as many are drawn; `3 * PICKS` images more for each class.
        seed: of both draws.
        asked: images beside which there are none: the first by row are taken, and classes are those of these images.
    """
    random = np.random.default_rng(seed)
    table = export.images
    if asked is not None:
        table = table.filter(pc.is_in(table["row"], pa.array(asked.rows)))
    rows = np.sort(table["row"].to_numpy())
    count = min(images, len(rows))
    drawn = (np.sort(random.choice(rows, count, replace=False)) if asked is None else rows[:count]).tolist()
    names = _largest(table, classes, random)
    name, by = judge(export)
    sign = -1 if by and not JUDGES[by].higher_is_better else 1
    query = RANKED.format(value=f"m.{by}" if by else "i.predicted_probability", sign=sign)
    with duckdb.connect() as connection:
        connection.register("images", table)
        connection.register("metrics", export.metrics)
        values = {"map": name or "", "classes": names, "picks": PICKS}
        lines = connection.sql(query, params=values).to_arrow_table().to_pylist() if names else []
    return Sample(names, drawn, _grouped(lines), by, name, asked)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly apart.

    >>> spread("abcde", 3)
    ['a', 'c', 'e']
    """
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in places]


def judge(export: Export) -> tuple[str | None, str | None]:
    """The map and the metric that rank images: those of `best_map`; None twice where no image has a metric."""
    best = best_map(export)
    return (best.name, best.metric) if best.metric else (None, None)


def _largest(images: pa.Table, count: int, random: np.random.Generator) -> list[int]:
    sizes = pc.value_counts(pc.coalesce(images["label"], images["target"])).to_pylist()
    shuffled = random.permutation(sorted(line["values"] for line in sizes)).tolist()
    counts = {line["values"]: line["counts"] for line in sizes}
    # Sorting is stable: equals stay in the order that was drawn.
    return sorted(sorted(shuffled, key=lambda index: -counts[index])[:count])


def _grouped(lines: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["class"], []).append(line)
    return groups
