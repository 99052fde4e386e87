"""Sanity: do maps depend on what the model has learned? (Adebayo et al. 2018, "Sanity checks for saliency maps")

The model is randomised from its head down, at each depth one part more, and the maps of the job are computed again, of
the targets and references that the model itself had chosen. A map's Spearman correlation, over its cells, with the one
that it was says how much of it is left. At depth 0 the model is as it is, a second time: the correlation is 1. What
maps of any image have in common, objects standing in the middle, is told by their correlation with another image's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config, TargetsConfig
from finer_ray.metrics.agreement import spearman
from finer_ray.metrics.statistics import Mean, mean_of
from finer_ray.metrics.table import SWITCHES
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.randomising import parts_of, randomise, recalibrate
from finer_ray.pipeline.cluster import check_device
from finer_ray.pipeline.drawing import Drawn, draw_images
from finer_ray.pipeline.progress import Progress, announce, run_bar
from finer_ray.pipeline.reference_files import with_references
from finer_ray.pipeline.targets import check_saliency, saliency_spec
from finer_ray.saliency import SaliencySpec, explain
from finer_ray.studies.output import write_study

NAME = "sanity"
# In the column `part`, where it names no part: nothing is randomised; the map is of another image.
NOTHING, ANOTHER = "nothing", "another image"
SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("target", pa.int32(), nullable=False),
        pa.field("map", pa.string(), nullable=False),
        pa.field("depth", pa.int32()),
        pa.field("part", pa.string(), nullable=False),
        pa.field("spearman", pa.float64()),
    ]
)
# Images that are explained together.
BATCH = 16
# Of the mean correlation when all is random: below, a map depends on the model; from here on, more on the image.
LOST, KEPT = 0.2, 0.5
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Sanity:
    """What the study found.

    Attributes:
        table: a line per image, map and depth with the schema SCHEMA, and one, its depth null, for another image's map.
            `part` is what was randomised last; `spearman` is null where a map is zero everywhere.
        failures: of images of the draw, why they could not be used.
    """

    table: pa.Table
    failures: list[str]

    def values(self) -> dict[str, dict[str, Values]]:
        """Correlations of each map by part, the depths in order and another image at last; NaN for null."""
        found: dict[str, dict[str, list[float]]] = {}
        for name, part, value in zip(
            *(self.table[column].to_pylist() for column in ("map", "part", "spearman")), strict=True
        ):
            found.setdefault(name, {}).setdefault(part, []).append(np.nan if value is None else value)
        return {name: {part: np.array(each) for part, each in parts.items()} for name, parts in found.items()}


def sanity_study(job: Config, folder: Path, images: int = 32, seed: int = 0) -> tuple[list[Path], Sanity]:
    """Write sanity.parquet and sanity.png.

    Args:
        job: whose model and maps are tried; of several targets of an image, the first.
        folder: to write to.
        images: how many are drawn of the job's.
        seed: of the draw and of the random weights.

    Returns:
        The files, and what they show.

    Raises:
        What `build_classifier`, `check_saliency` and `draw_images` raise.
    """
    found = sanity(job, images, seed)
    return write_study(folder, {NAME: found.table}, {NAME: _figure(found)}), found


def sanity(job: Config, images: int = 32, seed: int = 0) -> Sanity:
    """Compute the study. As `sanity_study`."""
    config = sanity_config(job)
    check_device(config.compute)
    announce("loading the model")
    classifier = build_classifier(config.model)
    config = with_references(config, classifier.classes)
    check_saliency(config, classifier)
    announce("drawing images")
    drawn = draw_images(_changed(config, saliency={"maps": ["gradcam"]}), classifier, images, seed)
    spec = replace(saliency_spec(config, classifier), registration=drawn.registration, by_image=False)
    lines = [line for lines in _correlations(classifier, drawn, spec, seed) for line in lines]
    return Sanity(pa.Table.from_pylist(lines, SCHEMA), drawn.failures)


def sanity_config(job: Config) -> Config:
    """The job with one target an image, in float32, in this process, and without what the study has no use for."""
    several = isinstance(job.saliency.target, TargetsConfig)
    return _changed(
        job,
        input={"part_names": None, "fields": {**job.input.fields.model_dump(), "parts": None}},
        saliency={"target": "predicted"} if several else {},
        metrics=dict.fromkeys(SWITCHES, False),
        output={"basis": False, "embedding": False, "patches": 0},
        compute={"executor": "inline", "precision": "fp32", "compile": False},
    )


def _changed(config: Config, **sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = config.model_dump()
    return parse_config(tree | {name: tree[name] | values for name, values in sections.items()})


def _correlations(
    classifier: Classifier, drawn: Drawn, spec: SaliencySpec, seed: int
) -> Iterator[Iterator[dict[str, Any]]]:
    """Lines of the table, depth by depth; the classifier is random in the end."""
    batches = Batches(drawn, classifier)
    parts = parts_of(classifier, next(iter(batches))[1][:1])
    generator = torch.Generator().manual_seed(seed)
    norms: list[_BatchNorm] = []
    progress = Progress(len(drawn.notes) * (len(parts) + 2), 0, 0)
    with run_bar() as bar:

        def maps() -> list[Tensor]:
            nonlocal progress
            found: dict[int, Tensor] = {}
            for numbers, images in batches:
                target, references = (
                    torch.from_numpy(known[numbers]).to(images.device) for known in (drawn.targets, drawn.references)
                )
                found |= zip(
                    numbers.tolist(), explain(classifier, images, spec, target, references).maps.cpu(), strict=True
                )
                progress = progress.advanced(len(numbers), 0)
                bar.show(progress)
            return [found[number] for number in range(len(found))]

        first = maps()
        yield _lines(drawn, spec, first, maps(), 0, NOTHING)
        for depth, part in enumerate(parts, 1):
            randomise(part, generator)
            # What modules have cached of their weights (LeViT's biases) is dropped.
            classifier.train().eval()
            norms += part.norms
            recalibrate(classifier.split, norms, [images for _, images in batches] if norms else [])
            yield _lines(drawn, spec, first, maps(), depth, part.name)
    yield _lines(drawn, spec, first, [*first[1:], first[0]], None, ANOTHER)


@dataclass(frozen=True)
class Batches:
    """A draw's images in batches of one size.

    Attributes:
        drawn: the images.
        classifier: on its device, for which they are normalised.
    """

    drawn: Drawn
    classifier: Classifier

    def __iter__(self) -> Iterator[tuple[NDArray[np.intp], Tensor]]:
        """Numbers of images, and these, (B, 3, H, W)."""
        shapes = np.array([image.shape[:2] for image in self.drawn.pixels])
        device = next(self.classifier.parameters()).device
        transform = self.classifier.transform
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
        for shape in np.unique(shapes, axis=0):
            same = np.flatnonzero((shapes == shape).all(1))
            # Of even sizes: a batch of one has no variance of its own.
            for numbers in np.array_split(same, -(-len(same) // BATCH)):
                pixels = torch.from_numpy(np.stack([self.drawn.pixels[number] for number in numbers])).to(device)
                yield numbers, (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def _lines(
    drawn: Drawn, spec: SaliencySpec, first: Sequence[Tensor], maps: Sequence[Tensor], depth: int | None, part: str
) -> Iterator[dict[str, Any]]:
    """Lines of one depth, of maps (M, h, w) of each image."""
    for note, target, before, after in zip(drawn.notes, drawn.targets.tolist(), first, maps, strict=True):
        # Another image may have another grid.
        same = before.shape == after.shape
        values = spearman(before, after).tolist() if same else [np.nan] * len(before)
        for wanted, value in zip(spec.maps, values, strict=True):
            line = {**note, "target": target, "map": wanted.name, "depth": depth, "part": part}
            yield {**line, "spearman": None if np.isnan(value) else value}


def sanity_table(found: Sanity) -> Table:
    """Mean and standard error by part and map, for the screen; how many maps were not zero, where some were."""
    values = found.values()
    table = Table(title="Spearman correlation with the map of the model as it is", title_justify="left")
    table.add_column("randomised down to", no_wrap=True)
    for name in values:
        table.add_column(name, justify="right", no_wrap=True)
    for part in next(iter(values.values())):
        if part == ANOTHER:
            table.add_section()
        table.add_row(part, *(_text(known[part]) for known in values.values()))
    return table


def verdicts(found: Sanity) -> list[str]:
    """What the study says of each map, in a sentence."""
    return [f"{name} {_verdict(list(known.values())[-2], known[ANOTHER])}" for name, known in found.values().items()]


def _verdict(last: Values, another: Values) -> str:
    mean, floor = mean_of(last), mean_of(another)
    if not mean.count:
        return "is zero everywhere when all is random: it depends on the model"
    common = f"two images' maps: {floor.mean:.2f}" if floor.count else "no two images to compare"
    left = f"{mean.mean:.2f} when all is random ({common})"
    zero = f"; {len(last) - mean.count} of {len(last)} maps are zero there" if mean.count < len(last) else ""
    if mean.mean < LOST:
        return f"falls to {left}: it depends on the model{zero}"
    if mean.mean < KEPT:
        return f"falls to {left}: it depends on the model in part{zero}"
    return f"stays at {left}: it depends on the image more than on the model{zero}"


def _text(values: Values) -> str:
    mean = mean_of(values)
    if not mean.count:
        return "-"
    some = f" ({mean.count})" if mean.count < len(values) else ""
    return f"{mean.mean:.3f} ± {mean.stderr:.3f}{some}"


def _figure(found: Sanity) -> Figure:
    values = found.values()
    *parts, _ = next(iter(values.values()))
    figure = Figure(figsize=(max(6.4, 0.32 * len(parts) + 2), 4.6), dpi=120, layout="constrained")
    axis = figure.subplots()
    for place, (name, known) in enumerate(values.items()):
        means: list[Mean] = [mean_of(known[part]) for part in parts]
        middle, error = (np.array([getattr(mean, what) for mean in means], float) for what in ("mean", "margin"))
        at = np.arange(len(parts)) + 0.08 * (place - (len(values) - 1) / 2)
        another = mean_of(known[ANOTHER]).mean
        axis.errorbar(at, middle, yerr=np.nan_to_num(error), fmt="o-", ms=3, lw=1, color=f"C{place}", label=name)
        axis.axhline(another, color=f"C{place}", linestyle=":", linewidth=0.9)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xticks(range(len(parts)), parts, rotation=60, ha="right", fontsize=7)
    axis.set_xlabel("randomised from the head down to")
    axis.set_ylabel("Spearman correlation with the model's map")
    axis.set_title(f"How much of each map is left? {len(known[parts[0]])} images, 95 % intervals", fontsize=11)
    figure.legend(frameon=False, fontsize=8, loc="outside upper right", ncols=2, title="dotted: another image's map")
    return figure
