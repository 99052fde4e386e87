"""Null in place of NaN."""

from typing import Any


def or_null(value: Any) -> Any:
    """NaN as null, in lists too."""
    if isinstance(value, list):
        return [or_null(item) for item in value]
    return None if value != value else value
