"""Gamma sweep: localisation of the Finer-Grad-CAM map at any gamma, from the stored basis; no model is needed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from finer_ray.errors import ExportError
from finer_ray.metrics.statistics import mean_of
from finer_ray.metrics.table import OF_REGION
from finer_ray.report.gamma_sweep import sweep_scores, swept
from finer_ray.report.photos import read_rows
from finer_ray.store.reading import Export
from finer_ray.store.tables import METRICS
from finer_ray.studies.output import write_study

KEYS = [pa.field("row", pa.int64(), nullable=False), pa.field("gamma", pa.float64(), nullable=False)]
# Images whose maps at all gammas are in memory together, pixel by pixel: 1 GB at 41 gammas and 224 x 224 pixels.
BATCH = 16


def sweep_table(export: Export, gammas: Sequence[float]) -> pa.Table:
    """A line per annotated image and gamma: row, gamma, and the metrics of regions that the job asked for.

    Against all references of an image, aggregated and weighed as in the export's section `saliency`.

    Raises:
        ExportError: no image has a mask or box, there is no basis, or the photos' shards are gone.
    """
    if not export.manifest.layout.basis:
        raise ExportError("the export has no contrast basis: it was made with output.basis: false")
    annotated = pc.unique(export.metrics.filter(pc.is_valid(export.metrics["region"]))["row"]).to_pylist()
    if not annotated:
        raise ExportError("no image of the export has a mask or a box, so there is nothing to localise")
    once = list(dict.fromkeys(gammas))
    return pa.concat_tables(_score(export, rows, regions, once) for rows, regions in _regions(export, annotated))


def sweep_study(export: Export, gammas: Sequence[float], folder: Path) -> list[Path]:
    """Write sweep.parquet and sweep.png. Raises what `sweep_table` does."""
    table = sweep_table(export, gammas)
    return write_study(folder, {"sweep": table}, {"sweep": _figure(table)})


def _regions(export: Export, rows: Sequence[int]) -> Iterator[tuple[list[int], NDArray[np.bool_]]]:
    """Rows and their regions, (n, H, W) bool, some of one size at a time."""
    found: list[int] = []
    regions: list[Any] = []
    for row, decoded in read_rows(export, rows, region=True):
        if decoded.region is None:
            continue
        if found and (len(found) == BATCH or decoded.region.shape != regions[0].shape):
            yield found, np.stack(regions)
            found, regions = [], []
        found.append(row)
        regions.append(decoded.region)
    if found:
        yield found, np.stack(regions)


def _score(export: Export, rows: list[int], regions: NDArray[np.bool_], gammas: Sequence[float]) -> pa.Table:
    lines: dict[str, Any] = {"row": np.repeat(rows, len(gammas)), "gamma": np.tile(gammas, len(rows)).astype(float)}
    for name, values in sweep_scores(export, rows, regions, gammas).items():
        # Arrow takes NaN for null here.
        column = pa.array(values.flatten(), from_pandas=True)
        lines[name] = pc.greater(column, 0) if OF_REGION[name].dtype == "bool" else column
    schema = pa.schema([*KEYS, *(METRICS.field(name) for name in swept(export))])
    return pa.table(lines).cast(schema)


def _figure(table: pa.Table) -> Figure:
    every = table["gamma"].to_numpy()
    gamma = np.unique(every)
    shown = [OF_REGION[name] for name in table.column_names if name in OF_REGION]
    figure = Figure(figsize=(4.2 * len(shown), 3.6), dpi=120, layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        values = pc.cast(table[metric.name], pa.float64()).to_numpy()
        mean = mean_of(np.stack([values[every == one] for one in gamma], axis=1))
        low, high = mean.mean - mean.margin, mean.mean + mean.margin
        axis.fill_between(gamma, low, high, alpha=0.25, linewidth=0, label="95 % interval")
        axis.plot(gamma, mean.mean, label="mean")
        if 0 in gamma:
            axis.axhline(mean.mean[list(gamma).index(0)], color="grey", linestyle="--", linewidth=0.9, label="baseline")
        axis.set_xlabel("gamma")
        axis.set_title(f"{metric.words} ({mean.count.max()} images)", fontsize=10)
        axis.legend(frameon=False, fontsize=8)
    return figure
