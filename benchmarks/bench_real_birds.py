"""Does the paper's claim hold on real birds? A classifier of 964 species, on photographed birds with their masks.

python -m benchmarks.bench_real_birds FOLDER --photos SHARDS [--work WORK] [--cams gradcam layercam scorecam]

prints tables, writes benchmarks/bench_real_birds.json. FOLDER holds mobilenetv2_inat_birds.safetensors, which was
trained with TensorFlow's SAME padding, and classes.txt. SHARDS are WebDataset tars of pictures and masks, as a glob;
those with keys animals_birds_* are taken. Each bird was cut out of a photo and stands on two coloured grounds, as
BIRD-0 and BIRD-1: two pictures of one bird are no two birds, so intervals are over birds, of each the mean over its
pictures. Score-CAM, 1280 forward passes a picture, takes half an hour. Exports that WORK holds are not made again.
"""

import argparse
import glob
import io
import json
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.bench_birds import Cell, cell, machine, run
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.report.paper_table import baselines, metric_values
from finer_ray.store.reading import Export

Values = NDArray[np.float64]
# Which picture it is, or is a view of; its file, and its mask's.
Sample = tuple[str, bytes, bytes]

BIRDS = "animals_birds_"
GAMMAS = (0.3, 0.6, 1.0, 1.5, 2.0)
METRICS = {
    "relative_drop_05": "RD.@0.05",
    "relative_drop_10": "RD.@0.1",
    "confidence_drop_05": "CD.@0.05",
    "confidence_drop_10": "CD.@0.1",
    "deletion_auc": "deletion",
    "localisation": "energy on the bird",
    "pointing_hit": "pointing",
}
# Sides of the crops, as shares of the picture's.
CROPS = (0.8, 0.6)
# What timm calls the padding of the weights, and its own.
SAME, ALIKE = "same", ""
Scores = dict[str, dict[str, Cell]]


def pictures(shards: str) -> Iterator[Sample]:
    """Those of birds, as they are."""
    for path in sorted(glob.glob(shards)):
        with tarfile.open(path) as tar:
            bodies = {member.name: tar.extractfile(member) for member in tar if member.name.startswith(BIRDS)}
            for name, body in bodies.items():
                key, _, kind = name.partition(".")
                if kind == "jpg":
                    yield key.removeprefix(BIRDS), body.read(), bodies[f"{key}.mask.png"].read()  # type: ignore[union-attr]


def views(shards: str) -> Iterator[Sample]:
    """Of each picture its mirror image, and crops around the bird."""
    for name, *files in pictures(shards):
        picture, mask = (Image.open(io.BytesIO(body)) for body in files)
        yield name, png(ImageOps.mirror(picture)), png(ImageOps.mirror(mask))
        for share in CROPS:
            box = around(mask, share)
            yield name, png(picture.crop(box)), png(mask.crop(box))


def around(mask: Image.Image, share: float) -> tuple[int, int, int, int]:
    """A box with a share of the picture's sides, the bird in its middle as far as the borders allow."""
    left, top, right, bottom = mask.convert("L").getbbox() or (0, 0, *mask.size)
    width, height = (round(share * side) for side in mask.size)
    x = min(max((left + right - width) // 2, 0), mask.width - width)
    y = min(max((top + bottom - height) // 2, 0), mask.height - height)
    return x, y, x + width, y + height


def png(image: Image.Image) -> bytes:
    body = io.BytesIO()
    image.save(body, "png")
    return body.getvalue()


def write(path: Path, samples: Iterable[Sample]) -> Path:
    """A WebDataset tar whose samples say which picture and which bird they show."""
    with tarfile.open(path, "w") as tar:
        for number, (name, picture, mask) in enumerate(samples):
            said = json.dumps({"picture": name, "bird": name.rpartition("-")[0]}).encode()
            for kind, body in (("png", picture), ("mask.png", mask), ("json", said)):
                member = tarfile.TarInfo(f"{number:04d}.{kind}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    return path


def job(
    args: argparse.Namespace, shard: str, cam: str, gammas: Sequence[float], padding: str, deletion: bool
) -> Config:
    """The classifier's job: a CAM's baseline, and its finer maps by gamma."""
    finer = [{"name": f"finer_{cam}.{gamma:g}", "cam": cam, "gamma": gamma} for gamma in gammas]
    return parse_config(
        {
            "input": {
                "shards": str(args.work / f"{shard}.tar"),
                "fields": {"label": ""},
                "columns": {"picture": "json.picture", "bird": "json.bird"},
            },
            "model": {
                "backbone": "timm:mobilenetv2_100",
                "weights": str(args.folder / "mobilenetv2_inat_birds.safetensors"),
                "classes": str(args.folder / "classes.txt"),
                "resize": "squash",
                "interpolation": "bilinear",
                "mean": (0.5, 0.5, 0.5),
                "std": (0.5, 0.5, 0.5),
                "kwargs": {"pad_type": padding},
            },
            "saliency": {"maps": [{"name": cam, "cam": cam, "gamma": 0.0}, *finer]},
            "metrics": {"deletion": deletion, "drops": True, "localisation": True},
            "output": {"url": str(args.work / f"{shard}_{cam}_{padding or 'alike'}"), "rows_per_unit": 32},
            "compute": {"executor": "inline"},
        }
    )


def score(exports: Sequence[Export], over: str = "bird") -> Scores:
    """By map and metric that all exports have: mean, its interval, and the paired difference to the map's baseline.

    Args:
        exports: with the same maps, whose images are taken together.
        over: the column of what the intervals draw anew, bird or picture.
    """
    groups = np.concatenate([made.images.sort_by("row")[over].to_numpy() for made in exports])
    parts = {name: [metric_values(made, name) for made in exports] for name in exports[0].manifest.layout.maps}
    plain = baselines(exports[0])
    found: Scores = {name: {} for name in parts}
    for metric, title in METRICS.items():
        if all(np.isfinite(part[metric]).any() for part in next(iter(parts.values()))):
            known = {name: np.concatenate([part[metric] for part in mine]) for name, mine in parts.items()}
            for name, values in known.items():
                found[name][title] = compared(values, known[plain[name]] if name in plain else None, groups)
    return found


def compared(values: Values, baseline: Values | None, groups: NDArray[Any]) -> Cell:
    """A cell of the table, over groups of images."""
    found = cell(means(values, groups), None)
    if baseline is not None:
        gain = cell(means(values - baseline, groups), None)
        found |= {"gain": gain["mean"], "gain_low": gain["low"], "gain_high": gain["high"]}
    return found


def means(values: Values, groups: NDArray[Any]) -> Values:
    """The mean of each group's finite values; NaN where there is none."""
    _, place = np.unique(groups, return_inverse=True)
    some = np.isfinite(values)
    count, total = np.bincount(place, some), np.bincount(place, np.where(some, values, 0.0))
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def seen(exports: Sequence[Export]) -> dict[str, Any]:
    """What exports of one model are of."""
    probability = np.concatenate([made.images["predicted_probability"].to_numpy() for made in exports])
    here = exports[0].manifest.layout.registration
    return {
        "pictures": len(probability),
        "birds": len({bird for made in exports for bird in made.images["bird"].to_pylist()}),
        "probability": {"mean": float(probability.mean()), "median": float(np.median(probability))},
        "cell_offset": here and here.offset,
    }


def show(title: str, scores: Scores) -> None:
    """Print a table: means, and below them intervals, of finer maps those of their difference to the baseline."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for metric in next(iter(scores.values())):
        table.add_column(metric, justify="right", no_wrap=True)
    for name, row in scores.items():
        table.add_row(name, *(text(found) for found in row.values()))
    Console(width=200).print(table)


def text(found: Cell) -> str:
    """A cell in two lines."""
    if "gain" not in found:
        return f"{found['mean']:.3f}\n[{found['low']:.3f}, {found['high']:.3f}]"
    return f"{found['mean']:.3f}\n{found['gain']:+.3f} [{found['gain_low']:+.3f}, {found['gain_high']:+.3f}]"


def main() -> None:
    """Print the tables, write the JSON beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--cams", nargs="+", default=["gradcam", "layercam"])
    args = parser.parse_args()
    args.work = args.work or Path(tempfile.mkdtemp())
    args.work.mkdir(parents=True, exist_ok=True)
    write(args.work / "pictures.tar", pictures(args.photos))
    write(args.work / "views.tar", views(args.photos))

    report: dict[str, Any] = {"SAME padding": {}, "SAME padding, with flips and crops": {}}
    for cam in args.cams:
        plain = run(job(args, "pictures", cam, GAMMAS, SAME, True))
        viewed = run(job(args, "views", cam, GAMMAS, SAME, False))
        report["SAME padding"] |= {"of": seen([plain]), **score([plain])}
        report["SAME padding, with flips and crops"] |= {"of": seen([plain, viewed]), **score([plain, viewed])}
    alike = run(job(args, "pictures", "gradcam", GAMMAS[:3], ALIKE, False))
    report["wrong padding, intervals over pictures"] = {"of": seen([alike]), **score([alike], "picture")}
    report["wrong padding"] = {"of": seen([alike]), **score([alike])}
    for title, scores in report.items():
        show(title, {name: row for name, row in scores.items() if name != "of"})
    Path(__file__).with_suffix(".json").write_text(json.dumps({**machine(), **report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
