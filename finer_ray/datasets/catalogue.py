"""The data sets that can be packed."""

from finer_ray.config.messages import nearest
from finer_ray.datasets.aircraft import AIRCRAFT
from finer_ray.datasets.birds525 import BIRDS525
from finer_ray.datasets.cars import CARS
from finer_ray.datasets.cub import CUB
from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.fishvista import FISHVISTA
from finer_ray.datasets.imagefolder import IMAGEFOLDER
from finer_ray.datasets.listing import Listing
from finer_ray.datasets.parquet_files import PARQUET_FILES
from finer_ray.errors import ConfigError
from finer_ray.plugins import table

DATASETS = table(Dataset, (CUB, CARS, AIRCRAFT, FISHVISTA, BIRDS525, IMAGEFOLDER, PARQUET_FILES))


def choose(format: str, label: str | None = None, task: str | None = None) -> Choice:
    """The choice for a format, with its defaults where None. Raises ConfigError naming what is valid."""
    dataset = DATASETS[_valid("--format", format, tuple(DATASETS))]
    if task is not None and not dataset.tasks:
        raise ConfigError(f"--task: {format} has one list of images only; leave the option out")
    return Choice(
        _valid("--label", label or dataset.labels[0], dataset.labels),
        _valid("--task", task or dataset.tasks[0], dataset.tasks) if dataset.tasks else "",
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
    return DATASETS[format].read(source, choice)


def _valid(option: str, value: str, valid: tuple[str, ...]) -> str:
    if value not in valid:
        raise ConfigError(f"{option}: {value!r} is none of {', '.join(valid)}{nearest(value, valid)}")
    return value
