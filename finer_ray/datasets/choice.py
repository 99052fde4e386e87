"""The choice of what to take from a data set that offers more than one labelling."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """Which labels and which task, by the data set's own words; valid ones are in its LABELS and TASKS.

    Attributes:
        label: level of the class names.
        task: which of the set's lists of images; '' where it has one list only.
    """

    label: str
    task: str = ""
