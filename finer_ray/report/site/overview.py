"""The overview: an export's counts, accuracy, failures, metrics with intervals, and charts, from all of its rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from finer_ray.metrics.metric import Metric
from finer_ray.metrics.statistics import mean_of
from finer_ray.metrics.table import REPORTED
from finer_ray.report.paper_table import Cell, compare, metric_values
from finer_ray.report.site.charts import Interval, Series, histogram, interval_chart, line_chart
from finer_ray.store.failures import grouped
from finer_ray.store.reading import Export
from finer_ray.store.similarity import classes_of

# Lines of the table of confused pairs.
PAIRS = 10


def accuracy(images: pa.Table) -> dict[str, Any] | None:
    """Share of labelled images that are predicted right, with its 95 % interval (Wilson's, which has a width also where
    all are right); None where none is labelled."""
    known = images.filter(pc.is_valid(images["label"]))
    if not known.num_rows:
        return None
    # On first use: scipy.stats takes longer to import than all the rest.
    from scipy.stats import binomtest

    right, count = pc.sum(pc.equal(known["label"], known["predicted"])).as_py(), known.num_rows
    interval = binomtest(right, count).proportion_ci(method="wilson")
    return {"mean": right / count, "low": float(interval.low), "high": float(interval.high), "count": count}


def failures(export: Export, said: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """Failures by stage and reason, the most frequent first: stage, reason, count, and one of them as an example.

    Args:
        export: any.
        said: what is said in place of an error's message.
    """
    table = export.failures
    errors = pa.array([said(error) for error in table["error"].to_pylist()], pa.string())
    return grouped(table.set_column(table.schema.get_field_index("error"), "error", errors))


def confused_pairs(export: Export) -> list[dict[str, Any]]:
    """The most frequent wrong predictions: label, predicted, count."""
    images = export.images
    wrong = images.filter(pc.fill_null(pc.not_equal(images["label"], images["predicted"]), False))
    counts = wrong.group_by(["label", "predicted"]).aggregate([("row", "count")]).rename_columns(
        ["label", "predicted", "count"]
    )  # fmt: skip
    ranked = counts.sort_by([("count", "descending"), ("label", "ascending"), ("predicted", "ascending")])
    lines: list[dict[str, Any]] = ranked.slice(0, PAIRS).to_pylist()
    return lines


def metric_table(export: Export) -> list[dict[str, Any]]:
    """The paper's table: each metric with a cell by map, with 95 % intervals."""
    cells = compare(export)
    return [
        {"metric": REPORTED[name], "cells": [_cell(known[name], REPORTED[name]) for known in cells.values()]}
        for name in next(iter(cells.values()), {})
    ]


def difference_charts(table: list[dict[str, Any]], maps: Sequence[str], baselines: dict[str, str]) -> dict[str, Markup]:
    """By finer map, its difference to its baseline in each metric.

    Args:
        table: of `metric_table`.
        maps: names, in the order of the table's cells.
        baselines: by finer map.
    """
    charts = {}
    for place, name in enumerate(maps):
        cells = [(line["metric"].title, line["cells"][place]) for line in table]
        rows = [
            Interval(head, cell["difference"], cell["difference_low"], cell["difference_high"], cell["better"])
            for head, cell in cells
            if cell["difference"] is not None
        ]
        if rows:
            charts[name] = interval_chart(rows, f"{name} minus {baselines[name]}, 95 % interval")
    return charts


def distribution_charts(export: Export) -> list[tuple[str, Markup]]:
    """Words and histogram of each metric but those that are yes or no."""
    values = {name: metric_values(export, name) for name in export.manifest.layout.maps}
    found = []
    for metric in REPORTED.values():
        mine = {name: known[metric.name] for name, known in values.items() if np.isfinite(known[metric.name]).any()}
        if mine and metric.dtype != "bool":
            found.append((metric.words, histogram(mine, metric.words)))
    return found


def similarity_chart(export: Export) -> Markup | None:
    """The classifier's sorted similarity curve; None where the export has no classifier."""
    table = export.similarity
    if not len(table):
        return None
    rank, mean, low, high = (pc.cast(table[name], pa.float64()).to_numpy() for name in ("rank", "mean", "low", "high"))
    line = Series("mean over the classes", rank, mean, low, high)
    title = "cosine of classifier weights"
    where = "rank of the other class (1: most similar)"
    return line_chart([line], f"{where}; {classes_of(table)}", title, log=len(rank) > 50)


def sweep_charts(
    gammas: NDArray[np.float64],
    scores: dict[str, NDArray[np.float64]],
    gamma: float,
    drawn: int,
    swept: int,
    lacking: int,
) -> list[tuple[str, str, Markup]]:
    """Words, of which images it is, and chart of each metric by gamma, with 95 % intervals of the means (1.96 standard
    errors, as `finer-ray study gamma`).

    Args:
        gammas: (G,).
        scores: by metric, (n, G) of the annotated images; NaN where a map is zero everywhere.
        gamma: the export's own, marked.
        drawn: how many images the sample has.
        swept: at how many of them was looked, n of which are annotated and at hand.
        lacking: how many of these have no photo at hand.
    """
    charts = []
    for name, values in scores.items():
        known = values[np.isfinite(values).all(1)]
        if not len(known):
            continue
        mean = mean_of(known)
        margin = np.nan_to_num(mean.margin)
        words, line = REPORTED[name].words, Series(name, gammas, mean.mean, mean.mean - margin, mean.mean + margin)
        left_out = {
            "with no photo at hand": lacking,
            "without an annotated region": swept - lacking - len(values),
            "whose map is zero at some gamma": len(values) - len(known),
            f"beyond the {swept:,} that are swept": drawn - swept,
        }
        charts.append((words, _of_images(len(known), drawn, left_out), line_chart([line], "gamma", words, mark=gamma)))
    return charts


def _of_images(count: int, drawn: int, left_out: dict[str, int]) -> str:
    """How many of the drawn images a chart is of, and why the others are left out."""
    if count == drawn:
        return f"All {count:,} images."
    reasons = ", ".join(f"{many:,} {why}" for why, many in left_out.items() if many)
    return f"{count:,} of {drawn:,} images; left out: {reasons}."


def _cell(cell: Cell, metric: Metric) -> dict[str, Any]:
    return {
        "count": cell.count,
        "mean": cell.mean,
        "median": cell.median,
        "low": cell.mean - cell.margin,
        "high": cell.mean + cell.margin,
        "difference": cell.difference,
        "difference_low": cell.low,
        "difference_high": cell.high,
        "better": _better(cell, metric.higher_is_better),
    }


def _better(cell: Cell, higher: bool) -> bool | None:
    """Whether the interval of the difference lies on the better side, on the worse one, or (None) on both."""
    if cell.low is None or cell.high is None or not (cell.low > 0 or cell.high < 0):
        return None
    return (cell.low > 0) == higher
