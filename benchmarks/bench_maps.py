"""All maps by all metrics: on photos whose objects are annotated, and on birds whose differing parts are known.

python -m benchmarks.bench_maps PHOTOS [FOLDER]    prints tables as Markdown, writes benchmarks/bench_maps.json

PHOTOS are WebDataset tars of photos and masks, as a glob. The job is `benchmarks/all_maps.yaml` over the demo's two. Of
all images it leaves out what is slow (`SLOW`), and makes all of every twentieth. Exports that FOLDER holds are gone on
with.
"""

import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from benchmarks.bench_birds import machine
from birds.shards import write_birds
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.demo.run_demo import birds_config, demo_config
from finer_ray.metrics.table import JUDGES, OF_REGION, SWITCHES
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.report.overlay import overlay
from finer_ray.report.paper_table import compare
from finer_ray.report.photos import read_photos
from finer_ray.saliency.methods import METHODS
from finer_ray.store.reading import Export, open_export

JOB = Path(__file__).with_name("all_maps.yaml")
# Left out where images are many: what takes hundreds of forward passes or linear systems.
SLOW = ("scorecam", "rise", "mask", "road")
BIRDS_A_SPECIES, EVERY = 10, 20
# Metrics without a forward pass.
PLAIN = (*OF_REGION, "sparsity")
# Of which sets a sheet is drawn, and of which of their images.
SHOWN = {"birds": (0, 3, 4)}
Cells = dict[str, dict[str, dict[str, Any]]]


def job(base: Config, shards: str, out: Path, without: Sequence[str] = ()) -> Config:
    """The job file over one of the demo's, with all maps that its model can have, but for some methods and metrics."""
    tree, own = base.model_dump(), yaml.safe_load(JOB.read_text())
    for section, keys in own.items():
        tree[section] = {**tree[section], **keys}
    classifier = build_classifier(base.model)
    names = [name for name, method in METHODS.items() if method.refusal(classifier, False) is None]
    tree["saliency"]["maps"] = [prefix + name for name in names if name not in without for prefix in ("", "finer_")]
    tree["metrics"] |= dict.fromkeys((name for name in without if name in SWITCHES), False)
    tree["input"]["shards"], tree["output"]["url"] = shards, str(out)
    return parse_config(tree)


def measured(config: Config) -> Cells:
    """By map and metric: mean and standard error, and of a finer map the paired difference to its baseline."""
    export(config)
    made = open_export(config.output.url)
    return {
        name: {metric: {key: _plain(value) for key, value in vars(cell).items()} for metric, cell in cells.items()}
        for name, cells in compare(made).items()
    }


def _plain(value: Any) -> float | None:
    return None if value is None else round(float(value), 5)


def markdown(cells: Cells) -> str:
    """Maps by metrics, those without a forward pass first. A finer map's mean is bold where it is better than its
    baseline's, slanted where worse, by the 95 % interval of the paired difference."""
    known = [name for name in JUDGES if name in next(iter(cells.values()))]
    groups = ([name for name in known if (name in PLAIN) is plain] for plain in (True, False))
    return "\n\n".join(_table(cells, group) for group in groups if group)


def _table(cells: Cells, metrics: list[str]) -> str:
    lines = ["| map | " + " | ".join(JUDGES[name].title for name in metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name, row in cells.items():
        lines.append(f"| {name} | " + " | ".join(_text(row[metric], metric) for metric in metrics) + " |")
    return "\n".join(lines)


def _text(cell: dict[str, Any], metric: str) -> str:
    text = f"{cell['mean']:.3f}"
    if cell["difference"] is None or cell["low"] <= 0 <= cell["high"]:
        return text
    better = (cell["difference"] > 0) == JUDGES[metric].higher_is_better
    return f"**{text}**" if better else f"*{text}*"


def sheet(made: Export, rows: list[int], path: Path) -> None:
    """Each image with all its maps, the baselines above and the finer ones below."""
    plain = [name for name in made.manifest.layout.maps if not name.startswith("finer_")]
    photos = read_photos(made, rows)
    figure = Figure(figsize=(1.25 * (1 + len(plain)), 2.5 * len(rows) + 0.3), dpi=110, layout="constrained")
    axes: Any = figure.subplots(2 * len(rows), 1 + len(plain), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (row, photo) in enumerate(zip(rows, photos, strict=True)):
        axes[2 * place, 0].imshow(photo)
        axes[2 * place + 1, 0].text(0.95, 0.5, "finer", transform=axes[2 * place + 1, 0].transAxes, ha="right")
        for line, prefix in enumerate(("", "finer_")):
            for axis, name in zip(axes[2 * place + line, 1:], plain, strict=True):
                axis.imshow(overlay(photo, made.maps([row], prefix + name, photo.shape[:2])[0]))
    for axis, name in zip(axes[0, 1:], plain, strict=True):
        axis.set_title(name, fontsize=9)
    figure.savefig(path)


def thinned(shards: Sequence[str], every: int, to: Path) -> str:
    """Every n-th sample of WebDataset tars, as one tar; its path."""
    if not to.exists():
        with tarfile.open(to, "w") as few:
            numbers: dict[str, int] = {}
            for shard in shards:
                with tarfile.open(shard) as tar:
                    for member in tar:
                        number = numbers.setdefault(member.name.split(".")[0], len(numbers))
                        if number % every == 0:
                            few.addfile(member, tar.extractfile(member))
    return str(to)


def jobs(photos: str, folder: Path) -> Iterator[tuple[str, Config]]:
    """Each set of images: its name, and its job."""
    drawn = folder / "birds_shards"
    if not drawn.exists():
        write_birds(drawn, "test", BIRDS_A_SPECIES)
    for name, base, shards in (
        ("photos", demo_config(folder), photos),
        ("birds", birds_config(folder), str(drawn / "*.tar")),
    ):
        yield name, job(base, shards, folder / name, SLOW)
        few = thinned(sorted(glob(shards)), EVERY, folder / f"few_{name}.tar")
        yield f"few {name}", job(base, few, folder / f"few_{name}")


def main() -> None:
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = machine()
    for name, config in jobs(sys.argv[1], folder):
        report[name] = measured(config)
        print(f"\n{name}\n\n{markdown(report[name])}", flush=True)
        if name in SHOWN:
            made = open_export(config.output.url)
            rows = [int(made.images["row"][place].as_py()) for place in SHOWN[name]]
            sheet(made, rows, folder / f"{config.output.url.rsplit('/', 1)[1]}.png")
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
