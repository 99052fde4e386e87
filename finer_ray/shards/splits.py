"""Splits: the names by which folders and files tell training data from test data."""

# Other names that splits go by.
SPLITS = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}
KNOWN = frozenset({*SPLITS, *SPLITS.values()})


def is_split(name: str) -> bool:
    """Whether a folder of that name is a split rather than a class."""
    return name.lower() in KNOWN


def split_hint(name: str) -> str:
    """What to add to a message about an unknown class of that name: what it is if it is a split, else ''."""
    return f"; {name!r} is the name of a split: give the folder below it, ROOT/{name}" if is_split(name) else ""
