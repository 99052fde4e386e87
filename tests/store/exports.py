"""A small export of real photos and made-up tensors, written by the store's own functions: no model, no Ray."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finer_ray.config.loading import parse_config
from finer_ray.images.transform import Transform
from finer_ray.models.classes import ClassNames
from finer_ray.saliency.aggregation import contrast
from finer_ray.saliency.patches import patch_features, top_cells
from finer_ray.shards import ShardRef, fields_of, find_shards, index_shard, read_unit
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile, ShardEntry, Unit
from finer_ray.store.parts import commit, publish
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES, IMAGES, METRICS
from finer_ray.store.tensors import create_tensors, to_half, write_unit
from tests.conftest import sample, write_tar

LAYOUT = Layout(
    maps=("gradcam", "finer_gradcam"),
    references=2,
    grid=(4, 4),
    embedding=6,
    basis=True,
    rows_per_unit=8,
    rows_per_chunk=4,
    patches=16,
)


def write_small_export(root: Path) -> Path:
    """Write the shards `in` and the export `demo_export` into a folder, and return the folder.

    a.tar holds p000 to p009 (with boxes), `twice` (without) and `bad`, which is no photo; b.tar another `twice`.
    """
    photos = [part for i in range(10) for part in sample(f"p{i:03d}", i, i % 4, [10, 8, 60, 50])]
    write_tar(root / "in" / "a.tar", [*photos, *sample("twice", 10, 1), ("bad.jpg", b"no photo")])
    write_tar(root / "in" / "b.tar", sample("twice", 11, 2, [0, 0, 40, 40]))
    folder = Folder(str(root / "demo_export"))
    manifest = _manifest(root, folder.url)
    create_tensors(folder, LAYOUT, manifest.rows())
    for unit in manifest.units():
        _write(folder, unit)
    publish_all(folder, manifest)
    return root


def publish_all(folder: Folder, manifest: Manifest) -> Manifest:
    """Publish a plan all of whose units are committed."""
    plan = ManifestFile(folder, PLAN)
    plan.write(manifest)
    return publish(folder, [unit.number for unit in manifest.units()], plan, ManifestFile(folder, EXPORT))


def _manifest(root: Path, url: str) -> Manifest:
    config = parse_config(
        {
            "input": {"shards": str(root / "in")},
            "model": {"backbone": "timm:test_resnet", "weights": "random", "classes": "imagenet-1k"},
            "saliency": {"references": LAYOUT.references},
            "output": {"url": url, "rows_per_unit": LAYOUT.rows_per_unit, "rows_per_chunk": LAYOUT.rows_per_chunk},
        }
    )
    entries, first = [], 0
    for ref in find_shards([str(root / "in")]):
        index = index_shard(ref, fields_of(ref.format), LAYOUT.rows_per_unit)
        entries.append(ShardEntry(index=index.to_json(), stamp=None, first_unit=first))
        first += len(index.starts)
    classes, transform = ClassNames.imagenet().names, asdict(Transform((64, 64)))
    return running(LAYOUT, entries, classes, config.model_dump(mode="json"), transform=transform)


def running(
    layout: Layout, shards: list[ShardEntry], classes: Sequence[str], config: dict[str, Any], **more: Any
) -> Manifest:
    """The manifest of a run that has committed nothing yet; `more` are other fields."""
    fingerprints = {"config_fingerprint": "c", "model_fingerprint": "m", "head_fingerprint": "h"}
    empty: dict[str, Any] = {"transform": {}, "tables": {}, "counts": {}, "versions": {}}
    known = {"layout": layout, "shards": shards, "classes": list(classes), "config": config}
    return Manifest(status="running", **fingerprints, **{**empty, **known, **more})


def _write(folder: Folder, unit: Unit) -> None:
    fields = fields_of(unit.format)
    lines: dict[str, list[dict[str, Any]]] = {"images": [], "metrics": [], "failures": []}
    shapes = {name: (unit.count, *shape) for name, shape in LAYOUT.shapes().items()}
    tensors: dict[str, Any] = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for name in ("references", "patch_cells"):
        tensors[name] = np.full(shapes[name], -1)
    for place, found in enumerate(read_unit(ShardRef(unit.url, unit.format), fields, unit.start, unit.count, 2**20)):
        row = unit.number * LAYOUT.rows_per_unit + place
        line = {"row": row, "key": found.key, "shard": unit.url, "index": unit.first_index + place}
        if found.key == "bad":
            lines["failures"].append({**line, "stage": "decode", "error": "no photo"})
            continue
        generator = np.random.default_rng(row)
        basis = generator.normal(size=(1, 1 + LAYOUT.references, *LAYOUT.grid)).astype(np.float32)
        cells = top_cells(torch.from_numpy(basis), torch.ones((1, LAYOUT.references), dtype=torch.bool), 0.6, 16)
        tensors["patch_cells"][place] = cells[0]
        tensors["patches"][place] = patch_features(
            torch.from_numpy(generator.normal(size=(1, 9, *LAYOUT.grid))), cells
        )[0]
        drawn = [contrast(torch.from_numpy(basis), gamma, "mean_before_relu")[0] for gamma in (0.0, 0.6)]
        tensors["basis"][place], tensors["basis_scale"][place] = (values[0] for values in to_half(basis, (1, 2, 3)))
        maps, scale = to_half(np.stack(drawn)[None], (2, 3))
        tensors["maps"][place], tensors["maps_scale"][place] = maps[0], scale[0]
        tensors["references"][place] = target, other = (row + 1, row + 2)
        tensors["embedding"][place] = generator.normal(size=LAYOUT.embedding)
        known = {"target": row, "predicted": row, "label": found.label, "logit": 2.0, "width": 80, "height": 64}
        chances = {"probability": 0.5, "predicted_probability": 0.5 + row / 100, "reference_probabilities": [0.2, 0.1]}
        against = {"references": [target, other], "reference_logits": [1.0, 0.5]}
        lines["images"].append({**line, **known, **chances, **against})
        for name in LAYOUT.maps:
            score = None if found.box is None else float(np.float32(generator.random()))
            hit = None if score is None else score > 0.5
            region = None if score is None else "box"
            scores = {"localisation": score, "pointing_hit": hit, "region": region, "deletion_auc": generator.random()}
            lines["metrics"].append({"row": row, "class": found.label, "map": name, **scores})
    write_unit(folder, LAYOUT, unit.number, tensors)
    schemas = {"images": IMAGES, "metrics": METRICS, "failures": FAILURES}
    commit(folder, unit.number, {name: pa.Table.from_pylist(lines[name], schema) for name, schema in schemas.items()})
