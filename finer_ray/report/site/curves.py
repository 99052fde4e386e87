"""Curves: the target's probability while pixels go, or come, in some order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from finer_ray.metrics.metric import Metric
from finer_ray.metrics.statistics import STDERR_SQL, Z
from finer_ray.metrics.table import CURVES
from finer_ray.report.site.charts import Series, line_chart
from finer_ray.store.query import connect
from finer_ray.store.reading import Export

# DuckDB aggregates what Arrow hands it batch by batch: a table of any size takes a line of memory per map and step.
MEANS = """
WITH points AS (
    SELECT map, unnest(range(len({curve}))) AS step, unnest({curve})::DOUBLE AS p
    FROM metrics WHERE {curve} IS NOT NULL
)
SELECT map, step, avg(p), coalesce({margin}, 0)
FROM points GROUP BY map, step ORDER BY step
"""


def mean_curves(export: Export, curve: str) -> list[Series]:
    """For each map that has curves their mean over all images, with the 95 % interval of the mean at each step.

    Args:
        export: any.
        curve: one of CURVES.
    """
    with connect(export) as connection:
        lines = connection.execute(MEANS.format(curve=curve, margin=f"{Z} * {STDERR_SQL.format('p')}")).fetchall()
    found = []
    for name in export.manifest.layout.maps:
        values = np.array([line[1:] for line in lines if line[0] == name], np.float64)
        if len(values):
            step, mean, margin = values.T
            found.append(Series(name, 100 * step / step[-1], mean, mean - margin, mean + margin))
    return found


def image_curves(metrics: Sequence[dict[str, Any]], curve: str) -> list[Series]:
    """The curves of one image, given its lines of the table `metrics`; none where they were not computed."""
    found = []
    for line in metrics:
        if line[curve] is not None:
            values = np.array(line[curve], np.float64)
            found.append(Series(line["map"], np.linspace(0, 100, len(values)), values))
    return found


def curve_charts(curves: dict[str, list[Series]]) -> dict[str, tuple[Metric, Markup]]:
    """The metric and a chart for each curve that there is, by its kind in words: `least first` of least_first_curve."""
    return {
        name.removesuffix("_curve").replace("_", " "): (
            CURVES[name],
            line_chart(series, CURVES[name].x_title, "probability of the target", zero=True),
        )
        for name, series in curves.items()
        if series
    }
