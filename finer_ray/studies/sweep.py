"""Gamma sweep: localisation of the Finer-Grad-CAM map at any gamma, from the stored basis; no model is needed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from matplotlib.figure import Figure

from finer_ray.errors import ExportError
from finer_ray.metrics import localisation, pointing_hit
from finer_ray.report.photos import read_rows
from finer_ray.saliency.aggregation import contrast
from finer_ray.saliency.objective import reference_weights
from finer_ray.store.reading import Export
from finer_ray.studies.output import write_study

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("gamma", pa.float64(), nullable=False),
        pa.field("localisation", pa.float32()),
        pa.field("pointing_hit", pa.bool_()),
    ]
)
TITLES = {"localisation": "energy on the object", "pointing_hit": "pointing hits"}
# Images whose maps and regions are in memory together.
BATCH = 64


def sweep_table(export: Export, gammas: Sequence[float]) -> pa.Table:
    """A line per annotated image and gamma: row, gamma, localisation, pointing_hit.

    Against all references of an image, aggregated and weighed as in the export's section `saliency`.

    Raises:
        ExportError: no image has a mask or box, there is no basis, or the photos' shards are gone.
    """
    if not export.manifest.layout.basis:
        raise ExportError("the export has no contrast basis: it was made with output.basis: false")
    annotated = pc.unique(export.metrics.filter(pc.is_valid(export.metrics["region"]))["row"]).to_pylist()
    if not annotated:
        raise ExportError("no image of the export has a mask or a box, so there is nothing to localise")
    return pa.concat_tables(_score(export, rows, regions, gammas) for rows, regions in _regions(export, annotated))


def sweep_study(export: Export, gammas: Sequence[float], folder: Path) -> list[Path]:
    """Write sweep.parquet and sweep.png. Raises what `sweep_table` does."""
    table = sweep_table(export, gammas)
    return write_study(folder, {"sweep": table}, {"sweep": _figure(table)})


def _regions(export: Export, rows: Sequence[int]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Rows and their regions, (n, H, W) bool, some at a time."""
    found: list[int] = []
    regions: list[Any] = []
    for row, decoded in read_rows(export, rows, region=True):
        if decoded.region is not None:
            found.append(row)
            regions.append(decoded.region)
        if len(found) == BATCH:
            yield found, torch.from_numpy(np.stack(regions))
            found, regions = [], []
    if found:
        yield found, torch.from_numpy(np.stack(regions))


def _score(export: Export, rows: list[int], regions: torch.Tensor, gammas: Sequence[float]) -> pa.Table:
    basis = export.basis(rows)
    present = ~basis[:, 1:, 0, 0].isnan()
    saliency = export.manifest.config["saliency"]
    weights = reference_weights(export.reference_logits(rows), present, saliency["weighting"])
    maps = torch.stack(
        [contrast(basis, gamma, saliency["aggregation"], present, weights=weights) for gamma in gammas], dim=1
    )
    # Arrow takes NaN for null here.
    energy, hit = (
        pa.array(metric(maps, regions).flatten().numpy(), from_pandas=True) for metric in (localisation, pointing_hit)
    )
    lines = {"row": np.repeat(rows, len(gammas)), "gamma": np.tile(gammas, len(rows)).astype(float)}
    return pa.table({**lines, "localisation": energy, "pointing_hit": pc.greater(hit, 0)}).cast(SCHEMA)


def _figure(table: pa.Table) -> Figure:
    figure = Figure(figsize=(8.4, 3.6), dpi=120, layout="constrained")
    grouped = table.set_column(3, "pointing_hit", pc.cast(table["pointing_hit"], pa.float64())).group_by("gamma")
    for axis, (name, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        spread = pc.VarianceOptions(ddof=1)
        found = grouped.aggregate([(name, "mean"), (name, "stddev", spread), (name, "count")]).sort_by("gamma")
        gamma, mean, deviation, count = (found[column].to_numpy() for column in _columns(name))
        error = 1.96 * deviation / np.sqrt(count)
        axis.fill_between(gamma, mean - error, mean + error, alpha=0.25, linewidth=0, label="95 % interval")
        axis.plot(gamma, mean, label="mean")
        if 0 in gamma:
            axis.axhline(mean[list(gamma).index(0)], color="grey", linestyle="--", linewidth=0.9, label="baseline")
        axis.set_xlabel("gamma")
        axis.set_title(f"{title} ({count.max()} images)", fontsize=10)
        axis.legend(frameon=False, fontsize=8)
    return figure


def _columns(name: str) -> tuple[str, str, str, str]:
    return "gamma", f"{name}_mean", f"{name}_stddev", f"{name}_count"
