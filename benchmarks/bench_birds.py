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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
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
from birds.train import SIDE
from finer_ray.config.loading import parse_config, parse_section
from finer_ray.config.schema import Config
from finer_ray.images.transform import Transform
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
# The usual layer, and the tokens that are pooled: `final`, but for the norm that comes after the pooling.
LAYERS = {"default": "default", "pooled": "transformer.resblocks.4"}
GAMMAS = (0.0, 0.3, 0.6, 1.0, 2.0)
# A class's probability above which the softmax counts as saturated, and the fewest birds that are a group.
SURE, MIN_GROUP = 0.9, 20
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


def part_maps(made: Export, folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Part ids by key, each in the pixels of the model's input, where registration places maps."""
    transform, found = Transform(**made.manifest.transform), {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".parts.png"):
                    body: Any = tar.extractfile(member)
                    ids = np.asarray(Image.open(io.BytesIO(body.read())))
                    found[member.name.removesuffix(".parts.png")] = transform.apply_ids(ids)
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


def score(
    made: Export,
    truth: tuple[list[int], Tensor, Tensor],
    maps: dict[str, tuple[str | float, str | float | None]] | None = None,
) -> dict[str, dict[str, Cell]]:
    """By map and measure: mean, its interval, and where the map has a baseline the paired difference with its own.

    Args:
        made: the export.
        truth: n rows, (n, H, W) where the light should lie, and where the birds are.
        maps: by the name of a line what it shows and its baseline: a stored map, or a gamma of the stored basis; all
            stored maps when None.
    """
    rows, regions, birds = truth
    seen = regions.flatten(1).any(1)
    rows = [row for row, any_pixel in zip(rows, seen.tolist(), strict=True) if any_pixel]
    regions, birds = regions[seen], birds[seen]
    plain = baselines(made)
    wanted = maps or {name: (name, plain.get(name)) for name in made.manifest.layout.maps}
    area = {"image": regions, "bird": regions & birds}
    chance = {
        "energy": (area["image"].float().mean((1, 2))).mean().item(),
        "energy of what lies on the bird": (area["bird"].sum((1, 2)) / birds.sum((1, 2))).mean().item(),
        "hit": regions.float().mean((1, 2)).mean().item(),
        "on the bird": birds.float().mean((1, 2)).mean().item(),
    }
    found = {
        key: measured(made, rows, key, regions, birds) for pair in wanted.values() for key in pair if key is not None
    }
    table = {
        name: {m: cell(values, None if other is None else found[other][m]) for m, values in found[key].items()}
        for name, (key, other) in wanted.items()
    }
    return {"(chance)": {m: {"count": len(rows), "mean": value} for m, value in chance.items()}, **table}


def measured(
    made: Export, rows: list[int], key: str | float, regions: Tensor, birds: Tensor
) -> dict[str, NDArray[np.float64]]:
    """Of one map, or of one gamma, each measure by row."""
    drawn = made.maps(rows, key) if isinstance(key, str) else made.contrast(rows, key)
    maps, here = torch.from_numpy(drawn)[:, None], made.manifest.layout.registration
    inside = localisation(maps, birds, here)
    values = {
        "energy": localisation(maps, regions, here),
        "energy of what lies on the bird": localisation(maps, regions & birds, here) / inside,
        "hit": pointing_hit(maps, regions, here),
        "on the bird": inside,
    }
    return {name: value[:, 0].double().numpy() for name, value in values.items()}


def drops(made: Export, rows: list[int]) -> dict[str, dict[str, Cell]]:
    """Relative drop, by map, of some rows."""
    lines = made.metrics.to_pylist()
    by_map = {name: {line["row"]: line for line in lines if line["map"] == name} for name in made.manifest.layout.maps}

    def values(name: str, metric: str) -> NDArray[np.float64]:
        return np.array([by_map[name][row][metric] for row in rows], dtype=np.float64)

    plain = baselines(made)
    return {
        name: {
            metric: cell(values(name, metric), values(plain[name], metric) if name in plain else None)
            for metric in ("relative_drop_05", "relative_drop_10")
        }
        for name in by_map
    }


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
    drawn = list(rendered(pictures("train", 16, SIDE)))
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


def cheat_model(folder: Path) -> dict[str, Any]:
    """The section `model` of that classifier, which is trained where the folder has none."""
    cheat, head = folder / "cheat", folder / "cheat" / "head.safetensors"
    if not head.exists():
        train_cheat(folder)
    return {"backbone": f"open_clip:local-dir:{cheat}", "weights": str(cheat / WEIGHTS), "head": str(head)}


def machine() -> dict[str, Any]:
    return {"machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__}}


def accuracy(made: Export) -> float:
    images = made.images
    return float(np.mean(images["label"].to_numpy() == images["predicted"].to_numpy()))


def overall(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return lines


def at_layer(folder: Path, layer: str, model: dict[str, Any]) -> dict[str, Any]:
    """All maps at one CAM layer, and what their gain over the baseline depends on."""
    maps = [f"{finer}{cam}" for cam in CAMS[:2] for finer in ("", "finer_")]
    made = run(job(folder, f"many_{layer}", "test/*.tar", model, saliency={"maps": maps}, metrics={"drops": True}))
    truth = differing(made, part_maps(made, folder / "test"))
    result: dict[str, Any] = {
        "rows": len(truth[0]),
        "differing_parts": score(made, truth),
        "drops": drops(made, truth[0]),
    }
    show(f"{layer}: on the parts that tell a species from the siblings it is compared with", result["differing_parts"])
    show(f"{layer}: relative drop", result["drops"])
    result["gamma"] = score(made, truth, {f"gamma {gamma}": (gamma, 0.0 if gamma else None) for gamma in GAMMAS})
    show(f"{layer}: Grad-CAM by gamma", result["gamma"])
    for title, group in groups(made, truth[0]).items():
        chosen = [place for place, row in enumerate(truth[0]) if row in group]
        if len(chosen) < MIN_GROUP:
            continue
        part = ([truth[0][place] for place in chosen], truth[1][chosen], truth[2][chosen])
        result[title] = {"differing_parts": score(made, part), "drops": drops(made, part[0])}
        show(f"{layer}: {title}, {len(chosen)} birds", result[title]["differing_parts"])
    result["within_genus"] = siblings_alone(folder, layer, model)
    return result


def groups(made: Export, rows: list[int]) -> dict[str, set[int]]:
    """Birds by what may weaken the comparison: references that are no siblings, and a softmax that is saturated."""
    lines = {line["row"]: line for line in made.images.to_pylist()}

    def all_siblings(line: dict[str, Any]) -> bool:
        return all(SPECIES[index] in siblings(SPECIES[line["target"]]) for index in line["references"])

    related = {row for row in rows if all_siblings(lines[row])}
    sure = {row for row in rows if lines[row]["probability"] > SURE}
    return {
        "all references are siblings": related,
        "a reference is no sibling": set(rows) - related,
        f"probability above {SURE}": sure,
        f"probability up to {SURE}": set(rows) - sure,
    }


def siblings_alone(folder: Path, layer: str, model: dict[str, Any]) -> dict[str, dict[str, Cell]]:
    """References from the genus alone."""
    taxa: dict[str, list[str]] = {}
    for species in SPECIES:
        taxa.setdefault(species.genus, []).append(species.name)
    maps = [f"{finer}{cam}" for cam in CAMS[:2] for finer in ("", "finer_")]
    saliency = {"maps": maps, "within": {"level": "genus", "taxa": taxa}}
    made = run(job(folder, f"within_{layer}", "test/*.tar", model, saliency=saliency))
    found = score(made, differing(made, part_maps(made, folder / "test")))
    show(f"{layer}: references within the genus", found)
    return found


def cheating(folder: Path, honest: dict[str, Any]) -> dict[str, Any]:
    """A.2 for the honest probe and for the cheat, on the same marked pictures."""
    cheat = cheat_model(folder)
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


def score_cam(folder: Path, head: dict[str, Any]) -> dict[str, dict[str, Cell]]:
    """Score-CAM, whose forward passes are many, on few birds."""
    made = run(job(folder, "few_score", "few/*.tar", head, saliency={"maps": ["scorecam", "finer_scorecam"]}))
    found = score(made, differing(made, part_maps(made, folder / "few")))
    show("default: Score-CAM", found)
    return found


def aggregation(folder: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """Tab. 7."""
    aggregation_study(job(folder, "unused", "few/*.tar", head), folder / "aggregation")
    return overall(folder / "aggregation" / "aggregation.parquet")


def words(folder: Path) -> dict[str, Any]:
    """Each bird asked about a part, as "red bill" against "bird"; and how many names are right."""
    saliency = {
        "target": "concept",
        "concept": {"by": "image"},
        "maps": ["gradcam", "finer_gradcam", "gem", "finer_gem"],
    }
    fields = {"text": "json.concept", "contrast_text": "json.base"}
    concepts = json.loads((folder / "test" / "concepts.json").read_text())
    result: dict[str, Any] = {}
    for layer, module in LAYERS.items():
        model = {"head": "text", "concepts": concepts, "cam_layer": module}
        own = job(folder, f"concepts_{layer}", "test/*.tar", model, input={"fields": fields}, saliency=saliency)
        made = run(own)
        result[layer] = score(made, concept_parts(made, part_maps(made, folder / "test")))
        result["zero_shot_accuracy"] = accuracy(made)
        show(f"{layer}: asked about a part in words, on that part", result[layer])
    return result


def write(report: dict[str, Any]) -> None:
    """What has been measured so far, so that a run that is stopped is not lost."""
    place = Path(__file__).with_suffix(".json")
    place.write_text(json.dumps({**machine(), **report}, indent=1) + "\n", encoding="utf-8")


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
        sections: dict[str, Callable[[], Any]] = {
            **{layer: partial(at_layer, folder, layer, {**head, "cam_layer": LAYERS[layer]}) for layer in LAYERS},
            "scorecam": partial(score_cam, folder, head),
            "concepts": partial(words, folder),
            "aggregation": partial(aggregation, folder, head),
            "faithfulness": partial(cheating, folder, head),
        }
        for name, measure in sections.items():
            report[name] = measure()
            write(report)
    print(f"exports below {folder}")


if __name__ == "__main__":
    main()
