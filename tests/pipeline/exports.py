"""What two exports must agree in; and exports that take their time."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finer_ray.pipeline import stages
from finer_ray.pipeline.explaining import Explainer
from finer_ray.store.reading import Export
from tests.conftest import Members, sample


def many(count: int, first: int = 0) -> Members:
    """Good samples p000, p001, ... with labels and boxes."""
    return [m for i in range(first, first + count) for m in sample(f"p{i:03d}", i, i % 7, [10, 8, 60, 50])]


def same(a: Export, b: Export) -> None:
    """Every table and every array, value for value."""
    for name in ("images", "metrics", "failures", "classes", "similarity"):
        assert getattr(a, name).equals(getattr(b, name)), name
    for name in a.manifest.layout.shapes():
        np.testing.assert_array_equal(a.tensors[name][:], b.tensors[name][:], err_msg=name)


def files_of(out: Path) -> dict[Path, bytes]:
    """All files of an export but those of its lease."""
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent != out / "lease"}


def by_key(export: Export) -> dict[str, Any]:
    """Images, metrics and maps by key, whatever rows they have in this export."""
    rows = export.images["row"].to_pylist()
    maps = {name: export.maps(rows, name) for name in export.manifest.layout.maps}
    lines = export.images.drop_columns(["row", "shard"]).to_pylist()
    metrics: dict[int, list[Any]] = {}
    for line in export.metrics.to_pylist():
        metrics.setdefault(line.pop("row"), []).append(line)
    return {
        line["key"]: (line, metrics[row], {name: values[place].tobytes() for name, values in maps.items()})
        for place, (row, line) in enumerate(zip(rows, lines, strict=True))
    }


def rows_of(table: pa.Table) -> set[int]:
    """Rows that a table has lines of."""
    return set(table["row"].to_pylist())


def slow_down(gate: str = "") -> type[Explainer]:
    """From now on the export's actors sleep for each unit: units wait for them, and there is a middle to be killed in.

    Args:
        gate: a file that all of them wait for.

    Returns:
        the class of the actors, which a test puts back.
    """
    fast = stages.Explainer

    class Slow(Explainer):
        def __call__(self, table: pa.Table) -> pa.Table:
            time.sleep(0.4)
            while gate and not Path(gate).exists():
                time.sleep(0.1)
            return super().__call__(table)

    stages.Explainer = Slow  # type: ignore[misc]
    return fast
