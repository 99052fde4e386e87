"""The paper's table of an export: maps by metrics, and every finer map against its baseline, image by image."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.table import Table

from finer_ray.metrics.statistics import Mean, bootstrap_interval, mean_of
from finer_ray.metrics.table import REPORTED
from finer_ray.saliency import spec
from finer_ray.store.reading import Export


@dataclass(frozen=True)
class Cell(Mean):
    """One map and metric, over the images that have it; for a finer map also the paired difference to its baseline.

    Attributes:
        median: of the values, where the metric is `Metric.skewed` and there are some; else None.
        difference, low, high: mean difference to the baseline and its 95 % bootstrap interval over the images that
            have both; None for baselines.
    """

    median: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def baselines(export: Export) -> dict[str, str]:
    """For each finer map of an export, its baseline: the map of the same CAM with gamma 0."""
    return spec.baselines(spec.maps_of(export.manifest.config["saliency"]))


def compare(export: Export, against: Mapping[str, str] | None = None) -> dict[str, dict[str, Cell]]:
    """Cells by map and metric; metrics that no image has are left out.

    Args:
        export: any.
        against: which map a map's differences are taken to, by name; its baseline when None.
    """
    against = baselines(export) if against is None else against
    values = {name: metric_values(export, name) for name in export.manifest.layout.maps}
    present = [metric for metric in REPORTED if any(np.isfinite(known[metric]).any() for known in values.values())]
    return {
        name: {
            metric: _cell(
                known[metric], values[against[name]][metric] if name in against else None, REPORTED[metric].skewed
            )
            for metric in present
        }
        for name, known in values.items()
    }


def paper_table(export: Export) -> Table:
    """The comparison, for the screen."""
    cells = compare(export)
    images = export.manifest.counts["images"]
    table = Table(
        title=f"{images} images; below a finer map's mean its difference to the baseline [95 % paired bootstrap]",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    for metric in next(iter(cells.values())):
        row = [known[metric] for known in cells.values()]
        table.add_row(REPORTED[metric].title, *(_mean(cell) for cell in row))
        if any(cell.median is not None for cell in row):
            table.add_row("  median", *("" if cell.median is None else f"{cell.median:.3f}" for cell in row))
        if any(cell.difference is not None for cell in row):
            table.add_row("", *(_difference(cell) for cell in row), style="dim")
    return table


def metric_values(export: Export, name: str) -> dict[str, NDArray[np.float64]]:
    """Metrics of one map by name, rows of images in order, NaN for null."""
    # Curves and other lists are left out: sorting would copy them.
    known = export.metrics.select(["row", "map", *REPORTED])
    table = known.filter(pc.equal(known["map"], name)).sort_by("row")
    return {metric: pc.cast(table[metric], pa.float64()).to_numpy() for metric in REPORTED}


def _cell(values: NDArray[np.float64], baseline: NDArray[np.float64] | None, skewed: bool) -> Cell:
    mean = mean_of(values)
    median = float(np.median(values[np.isfinite(values)])) if skewed and mean.count else None
    differences = np.empty(0) if baseline is None else values - baseline
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Cell(mean.count, mean.mean, mean.stderr, median)
    return Cell(mean.count, mean.mean, mean.stderr, median, float(differences.mean()), *bootstrap_interval(differences))


def _mean(cell: Cell) -> str:
    return f"{cell.mean:.3f} ± {cell.stderr:.3f}" if cell.count else "-"


def _difference(cell: Cell) -> str:
    return "" if cell.difference is None else f"{cell.difference:+.3f} [{cell.low:+.3f}, {cell.high:+.3f}]"
