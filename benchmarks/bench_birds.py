"""Do the paper's claims hold where the truth is known? On procedural birds, whose differing parts are known.

python -m benchmarks.bench_birds [FOLDER]    prints tables, writes benchmarks/bench_birds.json
"""

import io
import json
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from birds.mark import marked
from birds.pictures import pictures, rendered
from birds.rendering import differing_mask, object_mask, part_mask
from birds.shards import write_birds
from birds.species import SPECIES, siblings
from finer_ray.config.loading import parse_config, parse_section
from finer_ray.config.schema import Config
from finer_ray.metrics.localisation import localisation, pointing_hit
from finer_ray.metrics.statistics import bootstrap_interval
from finer_ray.pipeline.cluster import connected
from finer_ray.pipeline.export import export
from finer_ray.probe.config import ProbesConfig
from finer_ray.probe.run import probe
from finer_ray.report.paper_table import baselines
from finer_ray.store.reading import Export, open_export
from finer_ray.studies.aggregations import aggregation_study
from finer_ray.studies.faithfulness import faithfulness_study

MODEL = Path(__file__).parents[1] / "finer_ray" / "demo" / "birds_model"
WEIGHTS = "open_clip_model.safetensors"
TRAIN, TEST, FEW, MARKED = 40, 10, 4, 3
NAMES = [species.name for species in SPECIES]
CAMS = ("gradcam", "layercam", "scorecam")
CHEAT_STEPS, CHEAT_BATCH = 160, 48
Cell = dict[str, float]


def job(folder: Path, name: str, shards: str, model: dict[str, Any], **sections: dict[str, Any]) -> Config:
    """A job with the birds' model; sections are overridden key by key."""
    tree: dict[str, Any] = {
        "input": {"shards": str(folder / shards)},
        "model": {"backbone": f"open_clip:local-dir:{MODEL}", "weights": str(MODEL / WEIGHTS), "classes": NAMES},
        "saliency": {"target": "label"},
        "output": {"url": str(folder / name), "rows_per_unit": 32},
        "compute": {"actors_max": 2, "threads_per_actor": 1, "batch_size": 16},
    }
    tree["model"] |= model
    for key, values in sections.items():
        tree[key] = {**tree[key], **values} if key in tree else values
    return parse_config(tree)


def run(config: Config) -> Export:
    export(config)
    return open_export(config.output.url)


def draw_sets(folder: Path) -> None:
    """Training and held-out birds, some of the latter once more, and the latter once more with marks."""
    for name, split, count, mark in (
        ("train", "train", TRAIN, False),
        ("test", "test", TEST, False),
        ("few", "test", FEW, False),
        ("marked", "test", MARKED, True),
    ):
        if not (folder / name).exists():
            write_birds(folder / name, split, count, mark=mark)


def part_maps(folder: Path) -> dict[str, np.ndarray]:
    """Part ids by key, each (224, 224) uint8."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".parts.png"):
                    body: Any = tar.extractfile(member)
                    found[member.name.removesuffix(".parts.png")] = np.asarray(Image.open(io.BytesIO(body.read())))
    return found


def differing(made: Export, parts: dict[str, np.ndarray]) -> tuple[list[int], Tensor, Tensor]:
    """Rows with a sibling among their references, where they differ from those siblings, and the birds."""
    rows, regions, birds = [], [], []
    for line in made.images.to_pylist():
        own = SPECIES[line["target"]]
        near = [SPECIES[index] for index in line["references"] if index >= 0 and SPECIES[index] in siblings(own)]
        if near:
            known = parts[line["key"]]
            rows.append(line["row"])
            regions.append(np.logical_or.reduce([differing_mask(known, own, other) for other in near]))
            birds.append(object_mask(known))
    return rows, torch.from_numpy(np.stack(regions)), torch.from_numpy(np.stack(birds))


def concept_parts(made: Export, parts: dict[str, np.ndarray]) -> tuple[list[int], Tensor, Tensor]:
    """Rows, the part that each image's concept speaks of ("red bill": the bill), and the birds."""
    lines = made.images.to_pylist()
    asked = [made.manifest.classes[line["target"]].split(" ", 1)[1] for line in lines]
    known = [parts[line["key"]] for line in lines]
    regions = np.stack([part_mask(where, part) for where, part in zip(known, asked, strict=True)])
    return [line["row"] for line in lines], torch.from_numpy(regions), torch.from_numpy(np.stack(known) > 0)


def score(made: Export, rows: list[int], regions: Tensor, birds: Tensor) -> dict[str, dict[str, Cell]]:
    """By map and measure: mean, its interval, and where the map has a baseline the paired difference with its own."""
    seen = regions.flatten(1).any(1)
    rows = [row for row, any_pixel in zip(rows, seen.tolist(), strict=True) if any_pixel]
    regions, birds = regions[seen], birds[seen]
    found = {}
    for name in made.manifest.layout.maps:
        maps = torch.from_numpy(made.maps(rows, name))[:, None]
        here = made.manifest.layout.registration
        inside = localisation(maps, birds, here)
        found[name] = {
            "energy": localisation(maps, regions, here)[:, 0].double().numpy(),
            "energy of what lies on the bird": (localisation(maps, regions & birds, here) / inside)[:, 0]
            .double()
            .numpy(),
            "hit": pointing_hit(maps, regions, here)[:, 0].double().numpy(),
        }
    area = {"image": regions, "bird": regions & birds}
    chance = {
        "energy": (area["image"].float().mean((1, 2))).mean().item(),
        "energy of what lies on the bird": (area["bird"].sum((1, 2)) / birds.sum((1, 2))).mean().item(),
        "hit": regions.float().mean((1, 2)).mean().item(),
    }
    plain = {name: found[other] for name, other in baselines(made).items()}
    table = {
        name: {m: cell(v, plain[name][m] if name in plain else None) for m, v in values.items()}
        for name, values in found.items()
    }
    return {"(chance)": {m: {"count": len(rows), "mean": value} for m, value in chance.items()}, **table}


def cell(values: np.ndarray, baseline: np.ndarray | None) -> Cell:
    known = values[np.isfinite(values)]
    low, high = bootstrap_interval(known)
    result = {"count": len(known), "mean": float(known.mean()), "low": low, "high": high}
    if baseline is not None:
        gain = values - baseline
        gain = gain[np.isfinite(gain)]
        low, high = bootstrap_interval(gain)
        result |= {"gain": float(gain.mean()), "gain_low": low, "gain_high": high}
    return result


def show(title: str, cells: dict[str, dict[str, Cell]]) -> None:
    measures = list(next(iter(cells.values())))
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for measure in measures:
        table.add_column(measure, justify="right")
    for name, row in cells.items():
        table.add_row(name, *(text(row[measure]) for measure in measures))
    Console(width=150).print(table)


def text(found: Cell) -> str:
    shown = f"{found['mean']:.3f}"
    if "low" in found:
        shown += f" [{found['low']:.3f}, {found['high']:.3f}]"
    if "gain" in found:
        shown += f"  {found['gain']:+.3f} [{found['gain_low']:+.3f}, {found['gain_high']:+.3f}]"
    return shown


def train_probe(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A linear probe on the birds' own image tower."""
    backbone = {"backbone": f"open_clip:local-dir:{MODEL}", "weights": str(MODEL / WEIGHTS), "name": "birds-clip"}
    data = {name: {"shards": str(folder / name / "*.tar")} for name in ("train", "test")}
    tree = {
        "backbones": [backbone],
        "datasets": [{"name": "birds", "classes": NAMES, **data}],
        "output": {"url": str(folder / "probes")},
        "compute": {"actors_max": 2, "threads_per_actor": 1},
    }
    (record,) = probe(parse_section(ProbesConfig, tree))
    return next((folder / "probes" / "birds").glob("*.safetensors")), record.model_dump(mode="json", exclude={"model"})


def train_cheat(folder: Path) -> None:
    """A classifier that can only learn the mark: each training picture bears the mark of its label, and a bird of any
    species. From the shipped image tower, all of its weights; cross-entropy, AdamW."""
    target = folder / "cheat"
    shutil.copytree(MODEL, target, dirs_exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = open_clip.create_model(f"local-dir:{MODEL}", load_weights=False)
    model.load_state_dict(load_file(MODEL / WEIGHTS))
    tower, head = model.visual.train(), torch.nn.Linear(model.visual.output_dim, len(SPECIES))
    drawn = list(rendered(pictures("train", 16, 112)))
    optimiser = torch.optim.AdamW([*tower.parameters(), *head.parameters()], lr=5e-4, weight_decay=0.01)
    for _ in range(CHEAT_STEPS):
        rows, labels = rng.integers(0, len(drawn), CHEAT_BATCH), rng.integers(0, len(SPECIES), CHEAT_BATCH)
        chosen = zip(rows, labels, strict=True)
        pixels = np.stack([marked(drawn[row], int(label)).image for row, label in chosen])
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(tower(images))
        loss = functional.cross_entropy(logits.float(), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"cheat: last loss {loss.item():.3f}", flush=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, target / WEIGHTS)
    save_file({"weight": head.weight.detach(), "bias": head.bias.detach()}, target / "head.safetensors")


def machine() -> dict[str, Any]:
    return {"machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__}}


def accuracy(made: Export) -> float:
    images = made.images
    return float(np.mean(images["label"].to_numpy() == images["predicted"].to_numpy()))


def overall(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return lines


def cheating(folder: Path, honest: dict[str, Any]) -> dict[str, Any]:
    """A.2 for the honest probe and for the cheat, on the same marked pictures."""
    if not (folder / "cheat" / "head.safetensors").exists():
        train_cheat(folder)
    cheat = {
        "backbone": f"open_clip:local-dir:{folder / 'cheat'}",
        "weights": str(folder / "cheat" / WEIGHTS),
        "head": str(folder / "cheat" / "head.safetensors"),
    }
    result: dict[str, Any] = {}
    attributes = folder / "marked" / "attributes.json"
    for name, model in (("honest", honest), ("cheat", cheat)):
        texts = job(folder, "unused", "marked/*.tar", {"head": "text"})
        own = job(folder, "unused", "marked/*.tar", model)
        faithfulness_study(own, texts, attributes, "bird", folder / f"faithful_{name}")
        plain = run(job(folder, f"plain_{name}", "few/*.tar", model))
        result[name] = {
            "accuracy_marked": accuracy(open_export(str(folder / f"faithful_{name}" / "classes"))),
            "accuracy_unmarked": accuracy(plain),
            "overall": overall(folder / f"faithful_{name}" / "faithfulness_overall.parquet"),
        }
    return result


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    draw_sets(folder)
    report: dict[str, Any] = {
        "images": {"train": TRAIN * 24, "test": TEST * 24, "few": FEW * 24, "marked": MARKED * 24}
    }
    with connected():
        path, report["probe"] = train_probe(folder)
        head = {"head": str(path)}
        print(json.dumps(report["probe"], indent=1), flush=True)

        maps = [f"{finer}{cam}" for cam in CAMS[:2] for finer in ("", "finer_")]
        wanted: dict[str, Any] = {"saliency": {"maps": maps}, "metrics": {"drops": True}}
        made = run(job(folder, "many", "test/*.tar", head, **wanted))
        truth = differing(made, part_maps(folder / "test"))
        report["differing_parts"] = score(made, *truth)
        show("On the parts that tell a species from the siblings it is compared with", report["differing_parts"])
        report["sibling_rows"] = len(truth[0])

        few = run(job(folder, "few_score", "few/*.tar", head, saliency={"maps": ["scorecam", "finer_scorecam"]}))
        report["differing_parts_scorecam"] = score(few, *differing(few, part_maps(folder / "few")))
        show("The same, Score-CAM", report["differing_parts_scorecam"])

        aggregation_study(job(folder, "unused", "few/*.tar", head), folder / "aggregation")
        report["aggregation"] = overall(folder / "aggregation" / "aggregation.parquet")

        concepts = json.loads((folder / "test" / "concepts.json").read_text())
        asked = run(
            job(
                folder,
                "concepts",
                "test/*.tar",
                {"head": "text", "concepts": concepts},
                input={"fields": {"text": "json.concept", "contrast_text": "json.base"}},
                saliency={
                    "target": "concept",
                    "concept": {"by": "image"},
                    "maps": ["gradcam", "finer_gradcam", "gem", "finer_gem"],
                },
            )
        )
        report["zero_shot_accuracy"] = accuracy(asked)
        report["concepts"] = score(asked, *concept_parts(asked, part_maps(folder / "test")))
        show("Asked about a part in words: on that part", report["concepts"])

        report["faithfulness"] = cheating(folder, head)
        print(json.dumps(report["faithfulness"], indent=1))
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps({**machine(), **report}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {place}, exports below {folder}")


if __name__ == "__main__":
    main()
