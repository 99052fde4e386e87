"""Aggregation: how the references become one map, and what the metrics say of it (Finer-CAM, supplementary, Tab. 7)."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError
from finer_ray.metrics.statistics import or_null
from finer_ray.metrics.table import REPORTED
from finer_ray.pipeline.export import export
from finer_ray.report.paper_table import Cell, compare
from finer_ray.saliency.aggregation import AGGREGATIONS
from finer_ray.store.reading import Export, open_export
from finer_ray.studies.output import write_study

EXPORT = "aggregation"
BASELINE, USUAL = "gradcam", "mean_before_relu"
INTERVAL = ("difference", "low", "high")
SCHEMA = pa.schema(
    [
        pa.field("map", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("mean", pa.float64()),
        pa.field("stderr", pa.float64()),
        *(pa.field(f"{what}_to_{other}", pa.float64()) for other in (BASELINE, USUAL) for what in INTERVAL),
    ]
)


def aggregation_config(job: Config, url: str) -> Config:
    """The job with the maps and metrics of the study: Grad-CAM, and Finer-CAM under every aggregation.

    Raises:
        ConfigError: the job compares too little for aggregations to differ.
    """
    saliency = job.saliency
    count = len(saliency.selection) if isinstance(saliency.selection, list) else saliency.references
    if saliency.target == "concept" or count < 2:
        raise ConfigError("saliency.references: aggregations differ from two references on, and this job compares one")
    if saliency.gamma == 0:
        raise ConfigError("saliency.gamma: with 0 every aggregation is the baseline; set it to 0.6, say")
    tree: dict[str, Any] = job.model_dump()
    own = [{"name": name, "cam": "gradcam", "aggregation": name} for name in AGGREGATIONS]
    tree["saliency"]["maps"] = [BASELINE, *own]
    tree["metrics"] |= {"localisation": True, "deletion": True, "drops": True}
    tree["output"]["url"] = url
    return parse_config(tree)


def aggregation_study(job: Config, folder: Path) -> list[Path]:
    """Export the job's images below `folder`, and write aggregation.parquet and aggregation.png.

    Running it again does only what is missing. Raises what `aggregation_config` and `export` do.
    """
    url = str(folder / EXPORT)
    export(aggregation_config(job, url))
    table = aggregation_table(open_export(url))
    return write_study(folder, {"aggregation": table}, {"aggregation": _figure(table)})


def aggregation_table(made: Export) -> pa.Table:
    """A line per map and metric: count, mean and standard error over the images that have the metric; the mean paired
    difference to Grad-CAM and to mean_before_relu, each with its 95 % bootstrap interval, null for these themselves.
    """
    to_baseline = compare(made, dict.fromkeys(AGGREGATIONS, BASELINE))
    to_usual = compare(made, dict.fromkeys({BASELINE, *AGGREGATIONS} - {USUAL}, USUAL))
    lines = []
    for name, cells in to_baseline.items():
        for metric, cell in cells.items():
            spread = {what: or_null(getattr(cell, what)) for what in ("count", "mean", "stderr")}
            differences = _differences(cell, BASELINE) | _differences(to_usual[name][metric], USUAL)
            lines.append({"map": name, "metric": metric, **spread, **differences})
    return pa.Table.from_pylist(lines, SCHEMA)


def _differences(cell: Cell, other: str) -> dict[str, float | None]:
    return {f"{what}_to_{other}": or_null(getattr(cell, what)) for what in INTERVAL}


def _figure(table: pa.Table) -> Figure:
    lines = table.to_pylist()
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    across = min(3, len(metrics))
    down = -(-len(metrics) // across)
    figure = Figure(figsize=(3.9 * across + 1.0, 2.1 * down + 0.4), dpi=120, layout="constrained")
    figure.suptitle("Difference to Grad-CAM, image by image, with 95 % bootstrap intervals", fontsize=11)
    axes: Any = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    for metric, axis in zip(metrics, axes.flat, strict=False):
        mine = {line["map"]: line for line in lines if line["metric"] == metric}
        base = mine.pop(BASELINE)
        for place, line in enumerate(mine.values()):
            middle, low, high = (np.array(line[f"{what}_to_{BASELINE}"], float) for what in INTERVAL)
            axis.errorbar(middle, place, xerr=[[middle - low], [high - middle]], fmt="o", capsize=3, color=f"C{place}")
        axis.axvline(0, color="grey", linestyle="--", linewidth=0.9)
        axis.set_yticks(range(len(mine)), mine)
        axis.set_ylim(len(mine) - 0.5, -0.5)
        axis.margins(x=0.15)
        axis.set_title(
            f"{REPORTED[metric].title}  (Grad-CAM {_text(base['mean'])}, {base['count']} images)", fontsize=9
        )
        axis.tick_params(labelsize=8)
    return figure


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
