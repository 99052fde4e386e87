"""Curves: the target's probability while pixels go (deletion) or come (insertion), most salient first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from finer_ray.report.site.charts import Series, line_chart
from finer_ray.store.query import connect
from finer_ray.store.reading import Export

# What happens to the pixels, by the beginning of the column's name.
KINDS = {"deletion": "removed", "insertion": "inserted"}
# DuckDB aggregates what Arrow hands it batch by batch: a table of any size takes a line of memory per map and step.
MEANS = """
WITH points AS (
    SELECT map, unnest(range(len({kind}_curve))) AS step, unnest({kind}_curve)::DOUBLE AS p
    FROM metrics WHERE {kind}_curve IS NOT NULL
)
SELECT map, step, avg(p), coalesce(1.96 * stddev_samp(p) / sqrt(count(p)), 0)
FROM points GROUP BY map, step ORDER BY step
"""


def mean_curves(export: Export, kind: str) -> list[Series]:
    """For each map that has curves their mean over all images, with the 95 % interval of the mean at each step.

    Args:
        export: any.
        kind: one of KINDS.
    """
    with connect(export) as connection:
        lines = connection.execute(MEANS.format(kind=kind)).fetchall()
    found = []
    for name in export.manifest.layout.maps:
        values = np.array([line[1:] for line in lines if line[0] == name], np.float64)
        if len(values):
            step, mean, margin = values.T
            found.append(Series(name, 100 * step / step[-1], mean, mean - margin, mean + margin))
    return found


def image_curves(metrics: Sequence[dict[str, Any]], kind: str) -> list[Series]:
    """The curves of one image, given its lines of the table `metrics`; none where they were not computed."""
    found = []
    for line in metrics:
        curve = line[f"{kind}_curve"]
        if curve is not None:
            values = np.array(curve, np.float64)
            found.append(Series(line["map"], np.linspace(0, 100, len(values)), values))
    return found


def curve_charts(curves: dict[str, list[Series]]) -> dict[str, Markup]:
    """A chart for each kind that there are curves of."""
    return {
        kind: line_chart(
            series, f"% of pixels {KINDS[kind]}, most salient first", "probability of the target", zero=True
        )
        for kind, series in curves.items()
        if series
    }
