"""Published data sets, listed: one module per layout, each with `read`, and its LABELS and TASKS, the default first."""

from types import ModuleType

from finer_ray.config.messages import nearest
from finer_ray.datasets import aircraft, birds525, cars, cub, fishvista, imagefolder, parquet_files
from finer_ray.datasets.choice import Choice
from finer_ray.datasets.listing import Finding, Findings, Listing, Mask, Record
from finer_ray.errors import ConfigError

DATASETS: dict[str, ModuleType] = {
    "cub": cub,
    "cars": cars,
    "aircraft": aircraft,
    "fishvista": fishvista,
    "birds525": birds525,
    "imagefolder": imagefolder,
    "parquet": parquet_files,
}

__all__ = ["DATASETS", "Choice", "Finding", "Findings", "Listing", "Mask", "Record", "choose", "list_dataset"]


def choose(format: str, label: str | None = None, task: str | None = None) -> Choice:
    """The choice for a format, with its defaults where None. Raises ConfigError naming what is valid."""
    module = DATASETS[_valid("--format", format, tuple(DATASETS))]
    if task is not None and not module.TASKS:
        raise ConfigError(f"--task: {format} has one list of images only; leave the option out")
    return Choice(
        _valid("--label", label or module.LABELS[0], module.LABELS),
        _valid("--task", task or module.TASKS[0], module.TASKS) if module.TASKS else "",
    )


def list_dataset(format: str, source: str, choice: Choice) -> Listing:
    """List a data set without reading its images.

    Args:
        format: a name in DATASETS.
        source: its folder (of `parquet` also files and other fsspec URLs).
        choice: as `choose` makes it.

    Raises:
        InputError: the folder does not have the published layout's needed files, or one cannot be read.
    """
    listing: Listing = DATASETS[format].read(source, choice)
    return listing


def _valid(option: str, value: str, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise ConfigError(f"{option}: {value!r} is none of {', '.join(valid)}{nearest(value, valid)}")
    return value
