"""Does `finer-ray compare` find what changed? Noise on a model's weights, and a classifier that cheats.

- Noise: EfficientNet-Lite0 on the demo's 40 photos, against itself with normal noise on all its matrices and kernels, a
  share of each one's standard deviation.
- The mark: held-out birds, 3 of each species, with and without a mark of their class in a corner. The honest model is
  the birds' own, with their names as texts; the cheat has learned nothing but the mark (benchmarks/bench_birds.py).

python -m benchmarks.bench_changes [FOLDER]    prints a table, writes benchmarks/bench_changes.json
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bench_birds import LAYERS, cheat_model, job, run
from birds.shards import write_birds
from finer_ray.compare.run import compare
from finer_ray.config.loading import parse_config
from finer_ray.demo.run_demo import demo_config
from finer_ray.metrics.statistics import or_null
from finer_ray.models.checkpoint import read_checkpoint, weights_file
from finer_ray.store.reading import Export

LEVELS = (0.0, 0.02, 0.05, 0.1, 0.2)
PER_SPECIES = 3
LIMIT = 0.1
INLINE = {"compute": {"executor": "inline"}}


def noisy(folder: Path) -> Iterator[tuple[str, Export]]:
    """The demo's photos by its model, with growing noise on the weights."""
    config = demo_config(folder)
    path = weights_file(config.model.weights)
    assert path is not None
    known, generator = read_checkpoint(path), torch.Generator().manual_seed(0)
    noise = {key: torch.randn(value.shape, generator=generator) for key, value in known.items() if value.ndim > 1}
    for level in LEVELS:
        weights = folder / f"noise_{level}.pth"
        changed = {key: known[key] + level * known[key].std() * values for key, values in noise.items()}
        torch.save({**known, **changed}, weights)
        tree = config.model_dump()
        tree["model"]["weights"], tree["output"]["url"] = str(weights), str(folder / f"noise_{level}")
        yield str(level), run(parse_config({**tree, **INLINE}))


def birds(folder: Path) -> dict[str, Export]:
    """Birds and marked birds, by the honest model and by the cheat."""
    for name, mark in (("few", False), ("marked", True)):
        if not (folder / name).exists():
            write_birds(folder / name, "test", PER_SPECIES, mark=mark)
    cheat = cheat_model(folder)
    asked: dict[str, Any] = {"saliency": {"target": "predicted"}, "metrics": {"drops": True}, **INLINE}
    return {
        f"{who} {name}": run(
            job(folder, f"{who}_{name}", f"{name}/*.tar", {**model, "cam_layer": LAYERS["pooled"]}, **asked)
        )
        for who, model in (("honest", {"head": "text"}), ("cheat", cheat))
        for name in ("few", "marked")
    }


def record(a: Export, b: Export, folder: Path) -> dict[str, Any]:
    """What a comparison says of the finer map, and what is over the limit."""
    found = compare(a, b, folder)
    [finer] = [change for change in found.maps if change.name == "finer_gradcam"]
    metrics = {change.metric: change.difference for change in found.metrics if change.map == finer.name}
    return {
        "images": found.joined,
        "flipped": found.flipped / found.joined,
        "correlation": finer.correlation,
        "same target": finer.same_target,
        "top 5 % IoU": finer.top_overlap,
        "centre moves": finer.shift,
        "localisation": metrics["localisation"],
        "over": sorted(found.over(LIMIT)),
    }


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    levels, made = dict(noisy(folder)), birds(folder)
    asked = {f"noise {level}": (levels[str(LEVELS[0])], export) for level, export in levels.items()}
    asked |= {
        "honest: birds, marked birds": (made["honest few"], made["honest marked"]),
        "marked birds: honest, cheat": (made["honest marked"], made["cheat marked"]),
        "cheat: birds, marked birds": (made["cheat few"], made["cheat marked"]),
    }
    found = {name: record(*pair, folder / "compare") for name, pair in asked.items()}
    table = Table("A, B", *next(iter(found.values())))
    for name, line in found.items():
        table.add_row(name, *map(text, line.values()))
    Console(width=200).print(table)
    tree = json.dumps(
        found, indent=1, default=lambda estimate: {key: or_null(value) for key, value in vars(estimate).items()}
    )
    Path(__file__).with_suffix(".json").write_text(tree + "\n")


def text(value: Any) -> str:
    """A cell of the table."""
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return str(len(value)) if isinstance(value, list) else f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


if __name__ == "__main__":
    main()
