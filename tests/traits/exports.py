"""Exports with made-up patches, written by the store's own functions: no model, no images."""

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
from finer_ray.store.tensors import create_tensors, to_half, write_unit
from tests.store.exports import publish_all, running

REST = {
    "predicted": 0,
    "predicted_probability": 0.5,
    "logit": 1.0,
    "width": 8,
    "height": 8,
    "shard": "a.tar",
}


def write_export(
    path: Path,
    targets: Sequence[int],
    references: np.ndarray,
    basis: np.ndarray,
    cells: np.ndarray,
    features: np.ndarray,
    classes: Sequence[str],
    parts: np.ndarray | None = None,
    own: Mapping[str, Sequence[str | None]] | None = None,
    saliency: Mapping[str, Any] | None = None,
    part_names: Sequence[str] = (),
    per_unit: int = 8,
) -> Export:
    """A finished export of n images.

    Args:
        targets: (n,).
        references: (n, K), -1 for none.
        basis: (n, 1+K, h, w).
        cells: (n, P), -1 for none.
        features: (n, P, 64).
        parts: (n, h, w) or None.
        own: columns of the user's own.
    """
    count, size = references.shape
    layout = Layout(
        maps=("gradcam",),
        references=size,
        grid=basis.shape[2:],
        embedding=None,
        basis=True,
        rows_per_unit=per_unit,
        rows_per_chunk=per_unit // 2,
        patches=cells.shape[1],
        parts=parts is not None,
    )
    folder = Folder(str(path))
    units = -(-count // per_unit)
    index = ShardIndex(ShardRef("a.tar", "webdataset"), count, "fingerprint", tuple(range(units)))
    own = own or {}
    shard = ShardEntry(index=index.to_json(), stamp=None, first_unit=0)
    config = {
        "saliency": {"gamma": 0.6, **(saliency or {})},
        "input": {"shards": "a.tar", "part_names": list(part_names)},
    }
    manifest = running(layout, [shard], classes, config, columns=dict.fromkeys(own, "text"))
    create_tensors(folder, layout, manifest.rows())
    half, scale = to_half(basis.astype(np.float32), (1, 2, 3))
    tensors = {
        "maps": np.zeros((count, 1, *basis.shape[2:])),
        "maps_scale": np.zeros((count, 1)),
        "references": references,
        "basis": half,
        "basis_scale": scale,
        "patch_cells": cells,
        "patches": features,
    }
    if parts is not None:
        tensors["parts"] = parts
    for unit in range(units):
        mine = slice(unit * per_unit, min(count, (unit + 1) * per_unit))
        write_unit(folder, layout, unit, {name: values[mine] for name, values in tensors.items()})
        lines = [
            REST
            | {"row": row, "index": row, "key": f"k{row}", "target": int(targets[row])}
            | {"references": references[row].tolist(), "reference_logits": [0.0] * size}
            | {"reference_probabilities": [0.0] * size}
            | {name: values[row] for name, values in own.items()}
            for row in range(mine.start, mine.stop)
        ]
        schema = pa.schema([*IMAGES, *(pa.field(name, pa.string()) for name in own)])
        tables = {"images": pa.Table.from_pylist(lines, schema), "failures": FAILURES.empty_table()}
        commit(folder, unit, {**tables, "metrics": METRICS.empty_table()})
    publish_all(folder, manifest)
    return open_export(str(path))


def planted(
    path: Path, images: int = 24, order: Sequence[int] | None = None, noise: bool = False, **more: Any
) -> tuple[Export, np.ndarray]:
    """Three classes, each compared with the other two; on a 4 x 4 grid an image has one cell each of three known parts
    and three of none.

    Evidence of a class's own part (class c: part c) is 4, of part 2 (of all classes) 2, elsewhere at most 0.5. Parts
    are known by directions of their own, with a little noise.

    Args:
        path: of the export.
        images: of each class.
        order: of the rows; as they are made when None.
        noise: directions are random for all cells.

    Returns:
        The export, and the part of each candidate cell (n, 6) by row, -1 of none.
    """
    random = np.random.default_rng(0)
    count, size = 3 * images, 6
    targets = np.repeat([0, 1, 2], images)
    references = np.array([[d for d in range(3) if d != c] for c in targets])
    cells = np.stack([random.permutation(16)[:size] for _ in range(count)]).astype(np.int32)
    part = np.tile([0, 1, 2, -1, -1, -1], (count, 1))
    directions = np.linalg.qr(random.normal(size=(64, 3)))[0].T
    features = random.normal(size=(count, size, 64))
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    if not noise:
        clean = directions[part.clip(min=0)]
        features = np.where((part >= 0)[..., None], clean + 0.2 * features, features)
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    basis = np.zeros((count, 3, 16))
    for row in range(count):
        for entry, one in enumerate([targets[row], *references[row]]):
            strength = np.where(part[row] == one, 4.0, np.where(part[row] == 2, 2.0, random.uniform(0, 0.5, size)))
            np.put_along_axis(basis[row, entry], cells[row], strength, 0)
    rows = np.arange(count) if order is None else np.asarray(order)
    made = [targets, references, basis.reshape(count, 3, 4, 4), cells, features]
    export = write_export(path, *(values[rows] for values in made), classes=["crow", "rook", "jay"], **more)
    return export, part[rows]
