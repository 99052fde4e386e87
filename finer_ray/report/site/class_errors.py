"""Errors of classes: which of their images are predicted wrong, and how these measure beside the right ones."""

from dataclasses import dataclass, field
from typing import Any

import duckdb

from finer_ray.metrics.table import REPORTED
from finer_ray.report.best_map import BestMap
from finer_ray.store.reading import Export

# Wrong images of a class: so many get a page, and so many are listed.
PICTURED, LISTED = 6, 100
WRONG = """
SELECT i.label AS class, i.row, i.key, i.predicted, i.predicted_probability, CAST({value} AS DOUBLE) AS value
FROM images AS i LEFT JOIN metrics AS m ON m.row = i.row AND m.map = $map
WHERE i.label <> i.predicted AND list_contains($classes, i.label)
QUALIFY row_number() OVER (PARTITION BY i.label ORDER BY i.predicted_probability DESC, i.row) <= $listed
ORDER BY class, i.predicted_probability DESC, i.row
"""
MEANS = """
SELECT i.label AS class, i.label = i.predicted AS is_right, count(*) AS count,
    avg(i.predicted_probability) AS probability, {means}
FROM images AS i LEFT JOIN metrics AS m ON m.row = i.row AND m.map = $map
WHERE list_contains($classes, i.label) GROUP BY ALL
"""


@dataclass(frozen=True)
class Errors:
    """What goes wrong with the labelled images of a class.

    Attributes:
        wrong: lines with row, key, predicted, predicted_probability and value (of the metric that judges, or None),
            those that were predicted with the highest probability first, `LISTED` at most.
        means: by whether they are predicted right, of these images: count, mean probability of the prediction, and the
            mean of each metric of the best map, None where no image has it. One without images is missing.
    """

    wrong: list[dict[str, Any]] = field(default_factory=list)
    means: dict[bool, dict[str, Any]] = field(default_factory=dict)

    def pictured(self) -> list[int]:
        """Rows that get a page."""
        return [line["row"] for line in self.wrong[:PICTURED]]

    def compared(self) -> list[tuple[str, float, float]]:
        """Words, and the means of right and of wrong images, of the metrics that both have."""
        if len(self.means) < 2:
            return []
        named = {"probability": "probability of the prediction"}
        named |= {name: f"{metric.words} {metric.title[-1]}" for name, metric in REPORTED.items()}
        right, wrong = self.means[True], self.means[False]
        return [
            (words, right[name], wrong[name])
            for name, words in named.items()
            if right[name] is not None and wrong[name] is not None
        ]


def class_errors(export: Export, classes: list[int], best: BestMap) -> dict[int, Errors]:
    """By class, what goes wrong with it; classes without a labelled image have no errors.

    Args:
        export: any.
        classes: indices.
        best: the map whose metrics are told, and the metric that judges.
    """
    found = {index: Errors() for index in classes}
    if not classes:
        return found
    means = ", ".join(
        f"avg(CAST(m.{name} AS DOUBLE)) FILTER (isfinite(m.{name}::DOUBLE)) AS {name}" for name in REPORTED
    )
    values = {"map": best.name or "", "classes": classes}
    with duckdb.connect() as connection:
        connection.register("images", export.images)
        connection.register("metrics", export.metrics)
        query = WRONG.format(value=f"m.{best.metric}" if best.metric else "NULL")
        for line in connection.sql(query, params={**values, "listed": LISTED}).to_arrow_table().to_pylist():
            found[line["class"]].wrong.append(line)
        for line in connection.sql(MEANS.format(means=means), params=values).to_arrow_table().to_pylist():
            found[line["class"]].means[line["is_right"]] = line
    return found
