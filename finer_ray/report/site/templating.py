"""Templates: where they lie, and how they write numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(known: Mapping[str, Any]) -> Environment:
    """The report's templates, with what all pages know."""
    made = Environment(
        loader=PackageLoader("finer_ray.report.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": _number, "signed": _signed, "percent": _percent, "count": _count}
    made.globals |= known
    return made


def _number(value: float | None, digits: int = 3) -> str:
    return _written(value, f".{digits}f")


def _signed(value: float | None, digits: int = 3) -> str:
    return _written(value, f"+.{digits}f")


def _percent(value: float | None, digits: int = 0) -> str:
    return _written(None if value is None else 100 * value, f".{digits}f", "\N{NO-BREAK SPACE}%")


def _written(value: float | None, form: str, unit: str = "") -> str:
    """A number with a true minus sign; a dash where there is none."""
    return "–" if value is None or not np.isfinite(value) else f"{value:{form}}{unit}".replace("-", "−")


def _count(value: int) -> str:
    return f"{value:,}"
