"""Small exports of made-up embeddings, written by the store's own functions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from finer_ray.shards import ShardIndex, ShardRef
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import ShardEntry
from finer_ray.store.parts import commit
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, IMAGES, METRICS
from finer_ray.store.tensors import create_tensors, write_unit
from tests.store.exports import publish_all, running

REST = {"target": 0, "predicted": 0, "predicted_probability": 0.5, "logit": 0.0, "width": 1, "height": 1}
LISTS = {"references": [], "reference_logits": [], "reference_probabilities": []}


def gaussians(count: int, size: int, classes: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes whose channels differ in mean, scale and correlation: (n, E) float32 and labels (n,)."""
    world, random = np.random.default_rng(1234), np.random.default_rng(seed)
    centres = world.standard_normal((classes, size))
    mixing = world.standard_normal((size, size)) / size**0.5
    scales, shift = np.exp(world.standard_normal(size)), 3 * world.standard_normal(size)
    labels = random.integers(0, classes, count)
    rows = (centres[labels] + spread * random.standard_normal((count, size))) @ mixing * scales + shift
    return rows.astype(np.float32), labels


def write_export(
    path: Path,
    rows: np.ndarray,
    labels: Sequence[int | None],
    classes: Sequence[str],
    failures: Sequence[str] = (),
    per_unit: int = 512,
    per_chunk: int = 32,
    model: Mapping[str, Any] | None = None,
) -> Export:
    """A finished export with these embeddings; `failures` are stages of further images, which come last."""
    folder, total = Folder(str(path)), len(rows) + len(failures)
    layout = Layout(
        maps=("gradcam",),
        references=0,
        grid=(1, 1),
        embedding=rows.shape[1],
        basis=False,
        rows_per_unit=per_unit,
        rows_per_chunk=per_chunk,
    )
    units = -(-total // per_unit)
    starts = tuple(range(units))
    index = ShardIndex(ShardRef("a.tar", "webdataset"), total, "fingerprint", starts)
    shard = ShardEntry(index=index.to_json(), stamp=None, first_unit=0)
    manifest = running(layout, [shard], classes, {"model": dict(model or {})})
    create_tensors(folder, layout, manifest.rows())
    for unit in range(units):
        mine = range(unit * per_unit, min(total, (unit + 1) * per_unit))
        good = [row for row in mine if row < len(rows)]
        embedding = np.full((len(mine), rows.shape[1]), np.nan, np.float16)
        embedding[: len(good)] = rows[good]
        zeros = {"maps": np.zeros((len(mine), 1, 1, 1)), "maps_scale": np.zeros((len(mine), 1))}
        write_unit(folder, layout, unit, {**zeros, "embedding": embedding})
        place = {"shard": "a.tar"}
        lines = [
            {**REST, **LISTS, **place, "row": row, "index": row, "key": f"k{row}", "label": labels[row]} for row in good
        ]
        bad = [
            {**place, "row": row, "index": row, "key": f"k{row}", "stage": failures[row - len(rows)], "error": "why"}
            for row in mine
            if row >= len(rows)
        ]
        tables = {"images": pa.Table.from_pylist(lines, IMAGES), "failures": pa.Table.from_pylist(bad, FAILURES)}
        commit(folder, unit, {**tables, "metrics": METRICS.empty_table()})
    publish_all(folder, manifest)
    return open_export(str(path))
