"""Templates: where they lie, and how they write numbers and pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from finer_ray.metrics.table import METRICS


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
    made.filters |= {"shard": known["shard_names"], "shareable": known["shard_names"].text}
    # Metrics cannot be pickled, which all else is that pages know.
    made.globals |= {"metrics": METRICS, **known}
    return made


def write_page(made: Environment, path: Path, template: str, root: str, **context: Any) -> None:
    """Write a page piece by piece: that of all images may be large.

    Args:
        made: of `environment`.
        path: of the page.
        template: by name.
        root: the way from the page to the report's folder, "" or "../".
        context: what only this page knows.
    """
    with path.open("w", encoding="utf-8", errors="backslashreplace") as page:
        page.writelines(made.get_template(template).generate(root=root, **context))


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
