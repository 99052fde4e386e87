"""Weight similarity: the sorted curve of a classifier with its band (Finer-CAM, supplementary, Fig. 1)."""

from pathlib import Path

import pyarrow as pa
from matplotlib.figure import Figure
from torch import Tensor

from finer_ray.config.loading import load_config
from finer_ray.config.messages import nearest
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier
from finer_ray.models.checkpoint import read_checkpoint
from finer_ray.models.head import MAX_LISTED, head_names
from finer_ray.store.similarity import classes_of, similarity_table
from finer_ray.studies.output import write_study


def classifier_weights(path: Path, tensor: str | None = None) -> Tensor:
    """Weights (C, E) of a classifier.

    Args:
        path: a linear probe or a whole model's checkpoint (safetensors, or what torch loads with weights_only); or
            the YAML file of a job.
        tensor: which tensor of a checkpoint; when None the one that `finer_ray.models.head.head_names` finds, or its
            only matrix.

    Raises:
        ConfigError: the file cannot be read, or it holds no such matrix.
    """
    if path.suffix in (".yaml", ".yml"):
        return build_classifier(load_config(path).model).class_weights()
    if not path.is_file():
        raise ConfigError(
            f"there is no file {str(path)!r}{nearest(path.name, [p.name for p in path.parent.glob('*')])}"
        )
    state = read_checkpoint(path, "classifier", "classifier")
    matrices = {name: value for name, value in state.items() if value.ndim == 2 and len(value) > 1}
    names = (head_names(state) or [*matrices]) if tensor is None else [tensor]
    if len(names) != 1 or names[0] not in matrices:
        hint = "" if tensor is None else nearest(tensor, list(matrices))
        last = ", ".join(list(matrices)[-MAX_LISTED:]) or "none"
        raise ConfigError(
            f"{str(path)!r}: --tensor must name the classifier's weights (classes, embedding){hint}; "
            f"the last matrices of the file: {last}"
        )
    return matrices[names[0]]


def similarity_study(path: Path, folder: Path, tensor: str | None = None) -> list[Path]:
    """Write similarity.parquet and similarity.png. Raises what `classifier_weights` does."""
    weight = classifier_weights(path, tensor)
    table = similarity_table(weight)
    return write_study(folder, {"similarity": table}, {"similarity": _figure(table)})


def _figure(table: pa.Table) -> Figure:
    rank, mean, std, low, high = (table[name].to_numpy() for name in ("rank", "mean", "std", "low", "high"))
    figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained")
    axis = figure.subplots()
    axis.fill_between(rank, low, high, color="tab:blue", alpha=0.12, linewidth=0, label="smallest to largest")
    axis.fill_between(rank, mean - std, mean + std, color="tab:blue", alpha=0.3, linewidth=0, label="± 1 deviation")
    axis.plot(rank, mean, color="tab:blue", label="mean over the classes")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("rank of the other class (1: most similar)")
    axis.set_ylabel("cosine of classifier weights")
    axis.set_title(f"How similar are classes to each other? {classes_of(table)}", fontsize=11)
    axis.legend(frameon=False, fontsize=9)
    return figure
