"""What two exports must agree in."""

from typing import Any

import numpy as np
import pyarrow as pa

from finer_ray.store.export import Export
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
