"""A published data set: its layout, in one object."""

from collections.abc import Callable
from dataclasses import dataclass

from finer_ray.datasets.listing import Listing


@dataclass(frozen=True, slots=True)
class Choice:
    """Which labels and which task, by the data set's own words; valid ones are its `labels` and `tasks`.

    Attributes:
        label: level of the class names.
        task: which of the set's lists of images; '' where it has one list only.
    """

    label: str
    task: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set; one that is a line of `DATASETS` (catalogue.py), or defined in a plugin, can be packed.

    Attributes:
        name: value of `finer-ray pack --format`.
        description: what is kept of it beside image, label and split, in one line, for documents.
        read: (source, choice) to its listing: no image is opened, and what is missing, surplus, malformed or leads out
            of the folder is a finding. The source is the set's folder as published. Raises InputError where that does
            not have the layout.
        labels: levels of class names, the default first.
        tasks: names of its lists of images, the default first; () where it has one list only.
    """

    name: str
    description: str
    read: Callable[[str, Choice], Listing]
    labels: tuple[str, ...] = ("class",)
    tasks: tuple[str, ...] = ()
