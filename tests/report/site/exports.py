"""Small exports whose every part is known, written by the store's own functions; photos lie in a real shard."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finer_ray.config.loading import parse_config
from finer_ray.images.transform import Transform
from finer_ray.saliency.registration import Registration
from finer_ray.shards import ShardRef, fields_of, index_shard
from finer_ray.store.columns import schemas_with
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.manifest import Manifest, ShardEntry
from finer_ray.store.parts import commit
from finer_ray.store.reading import Export, open_export
from finer_ray.store.similarity import similarity_files, write_similarity
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, METRICS
from finer_ray.store.tensors import create_tensors, to_half, write_unit
from tests.conftest import photo, write_tar
from tests.store.exports import publish_all

# Not square, so that no axis can stand for another.
SIZE, GRID = (48, 64), (3, 4)
PER_UNIT = 8
# Not stretched, and its first and last cells lie inside.
REGISTRATION = Registration((9.25, 2.0), (14.0, 16.5))


@dataclass
class Made:
    """What `make` is asked for."""

    images: int = 6
    classes: Sequence[str] = ("cat", "dog", "fox", "<b>hen</b>")
    references: int = 3
    labels: bool = True
    basis: bool = True
    metrics: bool = True
    regions: bool = True
    lacking: Sequence[int] = ()
    failures: Sequence[str] = ()
    curves: Sequence[str] = ("deletion",)
    steps: int = 4
    maps: Sequence[Any] = ("gradcam", "finer_gradcam")
    saliency: dict[str, Any] | None = None
    concepts: int = 0
    classifier: bool = True
    patches: int = 0
    parts: Sequence[str] = ()
    key: Callable[[int], str] = "k{}".format
    # Length of the embeddings, which lie around a point for each label.
    embedding: int | None = None
    # The user's own columns: by name their kind and the value of a row.
    columns: dict[str, tuple[str, Callable[[int], Any]]] = field(default_factory=dict)


def make(path: Path, **wanted: Any) -> Export:
    """An export of random maps; rows in `lacking` have no last reference."""
    made, random = Made(**wanted), np.random.default_rng(5)
    shard = _shard(path, made)
    folder, total = Folder(str(path / "out")), made.images + len(made.failures)
    names = tuple(item if isinstance(item, str) else item["name"] for item in made.maps)
    saliency = {"maps": list(made.maps), "references": made.references, **(made.saliency or {})}
    model = {"backbone": "timm:test_resnet", "weights": "random", "image_size": list(SIZE)}
    parts = {"fields": {"parts": "parts.png"}, "part_names": list(made.parts)} if made.parts else {}
    config = parse_config(
        {"input": {"shards": shard.url, **parts}, "model": model, "saliency": saliency, "output": {"url": folder.url}}
    )
    index = index_shard(shard, fields_of("webdataset"), PER_UNIT)
    layout = Layout(
        maps=names, references=made.references, grid=GRID, embedding=made.embedding, basis=made.basis,
        registration=REGISTRATION, rows_per_unit=PER_UNIT, rows_per_chunk=4, patches=made.patches,
        parts=bool(made.parts),
    )  # fmt: skip
    weight = torch.from_numpy(random.standard_normal((len(made.classes), 5)) * made.classifier)
    manifest = Manifest(
        status="running", config=config.model_dump(mode="json"), config_fingerprint="c", model_fingerprint="m",
        head_fingerprint="h", classes=list(made.classes), concepts=made.concepts,
        transform=asdict(Transform(size=SIZE, resize="squash")), layout=layout,
        shards=[ShardEntry(index=index.to_json(), stamp=None, first_unit=0)], counts={}, versions={},
        tables={"similarity": similarity_files(weight)},
        columns={name: kind for name, (kind, _) in made.columns.items()},
    )  # fmt: skip
    create_tensors(folder, layout, manifest.rows())
    for unit in range(-(-total // PER_UNIT)):
        rows = range(unit * PER_UNIT, min(total, (unit + 1) * PER_UNIT))
        _write(folder, layout, unit, rows, shard.url, made, random)
    write_similarity(folder, weight)
    publish_all(folder, manifest)
    return open_export(folder.url)


def _shard(path: Path, made: Made) -> ShardRef:
    members = []
    for row in range(made.images + len(made.failures)):
        members.append((f"{made.key(row)}.jpg", photo(row, (80, 60))))
        if made.regions:
            members.append((f"{made.key(row)}.json", json.dumps({"box_xyxy": [10, 8, 60, 50]}).encode()))
    return ShardRef(str(write_tar(path / "in" / "a.tar", members)), "webdataset")


def _write(
    folder: Folder, layout: Layout, unit: int, rows: range, url: str, made: Made, random: np.random.Generator
) -> None:
    good = [row for row in rows if row < made.images]
    count, k = len(good), made.references
    basis = random.standard_normal((count, 1 + k, *GRID)).astype(np.float32)
    for place, row in enumerate(good):
        if row in made.lacking:
            basis[place, -1] = np.nan
    maps = np.abs(random.standard_normal((count, len(layout.maps), *GRID))).astype(np.float32)
    classes = len(made.classes) - made.concepts
    targets = [row % classes if not made.concepts else classes + row % made.concepts for row in good]
    references = np.array([[(target + 1 + j) % len(made.classes) for j in range(k)] for target in targets]).reshape(
        count, k
    )
    for place, row in enumerate(good):
        if row in made.lacking:
            references[place, -1] = -1
    half, scale = to_half(maps, (2, 3))
    half_basis, basis_scale = to_half(basis, (1, 2, 3))
    every = {
        "maps": half,
        "maps_scale": scale,
        "references": references,
        "basis": half_basis,
        "basis_scale": basis_scale,
    }
    every |= _patches(made, good)
    if made.embedding:
        centres = 4 * np.random.default_rng(6).standard_normal((classes, made.embedding))
        every["embedding"] = centres[[(row // 2) % classes for row in good]] + random.standard_normal(
            (count, made.embedding)
        )
    tensors = {}
    for name, shape in layout.shapes().items():
        full = np.full((len(rows), *shape), ARRAYS[name].fill, ARRAYS[name].dtype)
        full[:count] = every[name]
        tensors[name] = full
    write_unit(folder, layout, unit, tensors)
    lines, metrics = [], []
    for place, row in enumerate(good):
        logits = [
            None if r < 0 else float(x) for r, x in zip(references[place], random.standard_normal(k), strict=True)
        ]
        lines.append(
            {
                "row": row,
                "index": row,
                "key": made.key(row),
                "shard": url,
                "width": 80,
                "height": 60,
                "logit": 2.5,
                "label": (row // 2) % classes if made.labels else None,
                "target": targets[place],
                "predicted": row % classes,
                "probability": None if made.concepts else 0.6,
                "predicted_probability": 0.6,
                "references": references[place].tolist(),
                "reference_logits": logits,
                "reference_probabilities": [None if logit is None else 0.1 for logit in logits],
                **{name: value(row) for name, (_, value) in made.columns.items()},
            }
        )
        for name in layout.maps:
            known = {"localisation": float(random.random()), "relative_drop_05": float(random.standard_normal())}
            known |= {"probability_05": 0.4, "probability_10": 0.3, "region": "box"}
            if not made.concepts:
                known |= {f"{kind}_curve": random.random(made.steps + 1).tolist() for kind in made.curves}
            kind = targets[place] if lines[-1]["label"] is None else lines[-1]["label"]
            metrics.append({"row": row, "map": name, "class": kind, **(known if made.metrics else {})})
    bad = [
        {"row": row, "shard": url, "index": row, "key": made.key(row), "stage": "decode", "error": error}
        for row, error in enumerate(made.failures, start=made.images)
        if row in rows
    ]
    schemas = schemas_with({name: kind for name, (kind, _) in made.columns.items()})
    tables = {"images": (lines, schemas["images"]), "metrics": (metrics, METRICS), "failures": (bad, FAILURES)}
    commit(folder, unit, {name: pa.Table.from_pylist(rows, schema) for name, (rows, schema) in tables.items()})


def _patches(made: Made, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Candidate cells with random features of length 1, and each image's parts, one a column of the grid."""
    random = np.random.default_rng([7, *rows])
    cells = np.stack([random.permutation(GRID[0] * GRID[1])[: made.patches] for _ in rows]) if len(rows) else 0
    features = random.standard_normal((len(rows), made.patches, 64))
    columns = np.arange(GRID[1]) % (1 + len(made.parts))
    return {
        "patch_cells": cells,
        "patches": features / np.linalg.norm(features, axis=2, keepdims=True),
        "parts": np.broadcast_to(columns, (len(rows), *GRID)),
    }
