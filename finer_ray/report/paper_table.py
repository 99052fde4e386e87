"""The paper's table of an export: maps by metrics, and every finer map against its baseline, image by image."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.table import Table

from finer_ray.config.schema import SaliencyConfig
from finer_ray.metrics.bootstrap import paired_interval
from finer_ray.store.reading import Export

# Heading and column, in the order of the paper's Tab. 4; the arrow says which way is better.
COLUMNS = {
    "Del. ↓": "deletion_auc",
    "Ins. ↑": "insertion_auc",
    "RD.@0.05 ↑": "relative_drop_05",
    "RD.@0.1 ↑": "relative_drop_10",
    "CD.@0.05 ↑": "confidence_drop_05",
    "CD.@0.1 ↑": "confidence_drop_10",
    "Loc. ↑": "localisation",
    "Point. ↑": "pointing_hit",
}
HIGHER_IS_BETTER = {column: head.endswith("↑") for head, column in COLUMNS.items()}
# Metrics in the order in which they judge an image's map: where there is an annotation it is the truth.
PREFERRED = (
    "localisation", "relative_drop_05", "relative_drop_10", "deletion_auc", "insertion_auc", "confidence_drop_05",
    "confidence_drop_10", "pointing_hit",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One map and metric; for a finer map also the paired difference to its baseline.

    Attributes:
        count: of images that have the metric.
        mean, stderr: over them; NaN where there are too few.
        difference, low, high: mean difference to the baseline and its 95 % bootstrap interval over the images that
            have both; None for baselines.
    """

    count: int
    mean: float
    stderr: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def baselines(export: Export) -> dict[str, str]:
    """For each finer map of an export, its baseline: the map of the same CAM with gamma 0."""
    return SaliencyConfig.model_validate(export.manifest.config["saliency"]).baselines()


def compare(export: Export, against: Mapping[str, str] | None = None) -> dict[str, dict[str, Cell]]:
    """Cells by map and heading; headings that no image has are left out.

    Args:
        export: any.
        against: which map a map's differences are taken to, by name; its baseline when None.
    """
    against = baselines(export) if against is None else against
    values = {name: metric_values(export, name) for name in export.manifest.layout.maps}
    present = [head for head in COLUMNS if any(np.isfinite(columns[head]).any() for columns in values.values())]
    return {
        name: {head: _cell(columns[head], values[against[name]][head] if name in against else None) for head in present}
        for name, columns in values.items()
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
    for head in next(iter(cells.values())):
        row = [columns[head] for columns in cells.values()]
        table.add_row(head, *(_mean(cell) for cell in row))
        if any(cell.difference is not None for cell in row):
            table.add_row("", *(_difference(cell) for cell in row), style="dim")
    return table


def metric_values(export: Export, name: str) -> dict[str, NDArray[np.float64]]:
    """Metrics of one map by heading, rows of images in order, NaN for null."""
    # Curves and other lists are left out: sorting would copy them.
    known = export.metrics.select(["row", "map", *COLUMNS.values()])
    table = known.filter(pc.equal(known["map"], name)).sort_by("row")
    return {head: pc.cast(table[column], pa.float64()).to_numpy() for head, column in COLUMNS.items()}


def _cell(values: NDArray[np.float64], baseline: NDArray[np.float64] | None) -> Cell:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    stderr = float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan")
    if baseline is None:
        return Cell(len(known), mean, stderr)
    differences = values - baseline
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Cell(len(known), mean, stderr)
    return Cell(len(known), mean, stderr, float(differences.mean()), *paired_interval(differences))


def _mean(cell: Cell) -> str:
    return f"{cell.mean:.3f} ± {cell.stderr:.3f}" if cell.count else "-"


def _difference(cell: Cell) -> str:
    return "" if cell.difference is None else f"{cell.difference:+.3f} [{cell.low:+.3f}, {cell.high:+.3f}]"
