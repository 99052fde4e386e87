"""Weight similarity: the sorted curve of a classifier with its band (Finer-CAM, supplementary, Fig. 1)."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from torch import Tensor

from finer_ray.config import load_config
from finer_ray.metrics.similarity import similarity_curve
from finer_ray.models import build_classifier
from finer_ray.models.head import read_probe


def classifier_weights(path: Path) -> Tensor:
    """Weights (C, E) of a classifier given as a safetensors file, or as the YAML file of a job.

    Raises:
        ConfigError: neither, or it cannot be read.
    """
    if path.suffix in (".yaml", ".yml"):
        return build_classifier(load_config(path).model).class_weights()
    return read_probe(path)[0].weight


def similarity_table(weight: Tensor) -> pa.Table:
    """A line per rank: rank (from 1), mean, std, low and high of the cosines over all classes."""
    curve = similarity_curve(weight)
    columns = {name: getattr(curve, name).numpy() for name in ("mean", "std", "low", "high")}
    return pa.table({"rank": pa.array(range(1, len(weight)), pa.int32()), **columns})


def similarity_study(path: Path, folder: Path) -> tuple[Path, Path]:
    """Write similarity.parquet and similarity.png. Raises what `classifier_weights` does."""
    weight = classifier_weights(path)
    table = similarity_table(weight)
    folder.mkdir(parents=True, exist_ok=True)
    places = folder / "similarity.parquet", folder / "similarity.png"
    pq.write_table(table, places[0])
    figure = _figure(table, len(weight))
    figure.savefig(places[1])
    return places


def _figure(table: pa.Table, classes: int) -> Figure:
    rank, mean, std, low, high = (table[name].to_numpy() for name in table.column_names)
    figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.fill_between(rank, low, high, color="tab:blue", alpha=0.12, linewidth=0, label="smallest to largest")
    axis.fill_between(rank, mean - std, mean + std, color="tab:blue", alpha=0.3, linewidth=0, label="± 1 deviation")
    axis.plot(rank, mean, color="tab:blue", label="mean over the classes")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("rank of the other class (1: most similar)")
    axis.set_ylabel("cosine of classifier weights")
    axis.set_title(f"How similar are the {classes} classes to each other?", fontsize=11)
    axis.legend(frameon=False, fontsize=9)
    return figure
