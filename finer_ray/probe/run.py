"""Probing, as a recipe: embed the images of each pair of backbone and data set, train its probe, tabulate."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch

from finer_ray.config.schema import Config, InputConfig, MetricsConfig, ModelConfig, OutputConfig, SaliencyConfig
from finer_ray.errors import ConfigError, ExportError, FinerRayError, InputError
from finer_ray.models import build_classifier
from finer_ray.models.classes import read_classes
from finer_ray.models.head import probe_bytes
from finer_ray.pipeline.cluster import check_device
from finer_ray.pipeline.executor import Executor, executor_of
from finer_ray.pipeline.export import export
from finer_ray.probe.accuracy_table import accuracy_lines, accuracy_markdown
from finer_ray.probe.config import BackboneConfig, DatasetConfig, ExportConfig, ProbesConfig, TrainingConfig
from finer_ray.probe.embeddings import Embeddings, held_out
from finer_ray.probe.record import Record
from finer_ray.probe.training import correct, train
from finer_ray.shards import find_shards
from finer_ray.store.reading import Export, open_export
from finer_ray.store.storage import Folder

# Settings of a backbone's section that may differ between a config and an export that holds its embeddings.
FREE = {
    *("weights", "match", "seed", "head", "head_scale", "classes", "templates", "concepts"),
    *("activation", "cam_layer"),
}
PACKAGES = ("torch", "timm", "open_clip_torch")


@dataclass(frozen=True)
class Cell:
    """One probe to train: where its embeddings are, and how.

    Attributes:
        backbone, dataset: names.
        train, test: URLs of exports; without a test, `share` of the training images is held out.
        classes: names.
    """

    backbone: str
    dataset: str
    train: list[str]
    test: list[str]
    share: float
    classes: list[str]
    settings: TrainingConfig

    @property
    def file(self) -> str:
        """Its place in the output."""
        return probe_file(self.dataset, self.backbone)

    def fingerprint(self) -> str:
        """Hash of everything that decides the probe: settings, classes, and the rows of the exports."""
        rows = [[_rows(open_export(url)) for url in urls] for urls in (self.train, self.test)]
        settings = self.settings.model_dump(mode="json", exclude={"cache_rows"})
        parts = [settings, self.classes, rows, None if self.test else self.share]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def probe_file(dataset: str, backbone: str) -> str:
    """The place of a probe's file in the output."""
    return f"{dataset}/{backbone}.safetensors"


def probe(config: ProbesConfig) -> list[Record]:
    """Train a linear probe for every pair of backbone and data set, and write the tables of their accuracies.

    Embeddings that exist are not computed again, and a probe whose embeddings and settings are as before is not
    trained again. Probes are trained side by side, by `compute.executor`.

    Returns:
        Their records, in the config's order.

    Raises:
        ConfigError: the config asks for something that cannot be done; before any work.
        InputError: too many images fail, or a data set has no labelled image to train on; the other probes are made.
        ExportError: embeddings were made with other settings, or a given export cannot be used.
    """
    classes = [_class_names(place, dataset) for place, dataset in enumerate(config.datasets)]
    _check(config)
    folder = Folder(config.output.url)
    _check_files(config, folder)
    with executor_of(config.compute) as executor:
        cells = [
            _embedded(config, backbone, dataset, names)
            for dataset, names in zip(config.datasets, classes, strict=True)
            for backbone in config.backbones
        ]
        records, failed = _trained(config, cells, folder, executor)
    if records:
        folder.write_table("accuracies.parquet", accuracy_lines(records))
        folder.write("accuracies.md", accuracy_markdown(records).encode())
    if failed:
        raise InputError("no probe could be trained for\n" + "\n".join(f"  {line}" for line in failed))
    return records


def _check_files(config: ProbesConfig, folder: Folder) -> None:
    """Refuse to write over files that are no probes. Raises ExportError."""
    for dataset in config.datasets:
        for backbone in config.backbones:
            file = probe_file(dataset.name, backbone.title)
            content = folder.read(file)
            if content is not None and Record.read(content) is None:
                raise ExportError(
                    f"output.url: {folder.url}/{file} is no probe that was trained here, and would be written over: "
                    "choose another output.url"
                )


def _class_names(place: int, dataset: DatasetConfig) -> list[str] | None:
    """The data set's own classes; None where they are its exports'. Raises ConfigError."""
    if dataset.classes is None:
        return None
    try:
        names = list(read_classes(dataset.classes).names)
    except ConfigError as error:
        raise ConfigError(f"datasets.{place}.{str(error).removeprefix('model.')}") from None
    if len(names) < 2:
        raise ConfigError(f"datasets.{place}.classes: a classifier needs two classes at least")
    return names


def _check(config: ProbesConfig) -> None:
    """Look at all backbones, shards and exports before the first image is read.

    Raises:
        ConfigError, InputError, ExportError: with the place in the config.
    """
    check_device(config.compute)
    built: set[int] = set()
    for number, dataset in enumerate(config.datasets):
        for part, source in (("train", dataset.train), ("test", dataset.test)):
            place = f"datasets.{number}.{part}"
            for row, backbone in enumerate(config.backbones if source is not None else []):
                if isinstance(source, ExportConfig):
                    _check_exports(place, source, backbone)
                elif row not in built:
                    _check_backbone(row, backbone)
                    built.add(row)
            if isinstance(source, InputConfig):
                _check_shards(place, source)


def _check_backbone(place: int, backbone: BackboneConfig) -> None:
    try:
        build_classifier(backbone.model(["a class", "another"]))
    except ConfigError as error:
        raise ConfigError(f"backbones.{place}.{str(error).removeprefix('model.')}") from None


def _check_shards(place: str, source: InputConfig) -> None:
    try:
        find_shards(source.shards, source.format)
    except InputError as error:
        raise InputError(f"{place}.{str(error).removeprefix('input.')}") from None


def _check_exports(place: str, source: ExportConfig, backbone: BackboneConfig) -> None:
    """Refuse exports that there are not, and those of another backbone."""
    ours = backbone.model(["a class", "another"]).model_dump(mode="json", exclude=FREE)
    for url in source.urls(backbone.title):
        try:
            # Exports of earlier versions have no kwargs.
            theirs = {"kwargs": {}, **open_export(url).manifest.config["model"]}
        except ExportError as error:
            raise ExportError(f"{place}.export: {error}") from None
        if other := [name for name, value in ours.items() if theirs.get(name) != value]:
            raise ExportError(
                f"{place}.export: {url} was made with {other[0]} {theirs.get(other[0])!r}, the backbone "
                f"{backbone.title!r} has {ours[other[0]]!r}; with several backbones, write {{backbone}} into the URL"
            )


def _embedded(config: ProbesConfig, backbone: BackboneConfig, dataset: DatasetConfig, names: list[str] | None) -> Cell:
    """The cell of a pair, its embeddings computed where they are missing."""
    urls: dict[str, list[str]] = {"train": [], "test": []}
    for part, source in (("train", dataset.train), ("test", dataset.test)):
        if isinstance(source, ExportConfig):
            urls[part] = [Folder(url).url for url in source.urls(backbone.title)]
        elif source is not None:
            url = f"{Folder(config.output.url).url}/embeddings/{dataset.name}/{backbone.title}/{part}"
            _embed(config, backbone.model(names or []), source, url)
            urls[part] = [url]
    manifests = [open_export(url).manifest for url in urls["train"] + urls["test"]]
    if len({manifest.model_fingerprint for manifest in manifests}) > 1:
        raise ExportError(f"{dataset.name} with {backbone.title}: its exports were made with different weights")
    if names is None:
        found = [manifest.classes[: len(manifest.classes) - manifest.concepts] for manifest in manifests]
        if any(other != found[0] for other in found):
            raise ExportError(f"{dataset.name}: its exports have different classes; give their names as `classes`")
        names = found[0]
    return Cell(backbone.title, dataset.name, urls["train"], urls["test"], dataset.held_out, names, config.probe)


def _embed(config: ProbesConfig, model: ModelConfig, source: InputConfig, url: str) -> None:
    """An export of embeddings: its head is blank, so that its maps are too, and cost next to nothing."""
    job = Config(
        input=source,
        model=model,
        # Of embeddings alone: nothing meets pixels, and nothing need be measured.
        saliency=SaliencyConfig(maps=["gradcam"], references=0, registration="stretch"),
        metrics=MetricsConfig(localisation=False),
        output=OutputConfig(url=url, basis=False),
        compute=config.compute,
    )
    try:
        export(job)
    except (ExportError, InputError) as error:
        raise type(error)(f"{url}: {error}") from None


def _trained(
    config: ProbesConfig, cells: Sequence[Cell], folder: Folder, executor: Executor
) -> tuple[list[Record], list[str]]:
    """Records of the cells, those that have none yet trained side by side; and why others have none."""
    share = executor.resources(config.compute)
    # Whatever the size of the machine, because the last bits depend on it.
    threads = config.compute.threads_per_actor or max(1, int(share.cpus))
    known = {cell.file: record for cell in cells if (record := _record(folder, cell)) is not None}
    left = [cell for cell in cells if cell.file not in known]
    made = executor.map(
        partial(_train_or_say, folder.url, share.device, threads), left, share.cpus, share.gpus, max_local=0
    )
    failed: list[str] = []
    for cell, found in zip(left, made, strict=True):
        if isinstance(found, Record):
            known[cell.file] = found
        else:
            failed.append(f"{cell.dataset} with {cell.backbone}: {found}")
    return [known[cell.file] for cell in cells if cell.file in known], failed


def _record(folder: Folder, cell: Cell) -> Record | None:
    """The record of a cell that is finished, with the embeddings and settings of now."""
    content = folder.read(cell.file)
    record = None if content is None else Record.read(content)
    return record if record is not None and record.fingerprint == cell.fingerprint() else None


def _rows(export: Export) -> list[object]:
    """What decides the rows of an export, and their labels."""
    manifest = export.manifest
    shards = [(entry.shard.fingerprint, entry.shard.count, entry.first_unit) for entry in manifest.shards]
    prints = manifest.config_fingerprint, manifest.model_fingerprint, manifest.head_fingerprint
    return [*prints, manifest.counts, shards]


def _train_or_say(url: str, device: str, threads: int, cell: Cell) -> Record | str:
    """The record of a cell, or why its probe cannot be trained: the others are trained nevertheless."""
    try:
        return _train(url, device, threads, cell)
    except FinerRayError as error:
        return str(error)


def _train(url: str, device: str, threads: int, cell: Cell) -> Record:
    """Train a cell's probe, measure its accuracy, write it."""
    torch.set_num_threads(threads)
    fitted, judged = parts = _parts(cell)
    if not len(fitted):
        raise InputError(
            f"no image to train on has a label among the {len(cell.classes)} classes: "
            f"{fitted.unlabelled} have none, {fitted.unknown} an unknown one, {fitted.failed} failed"
        )
    manifest = open_export(cell.train[0]).manifest
    head, iterations = train(fitted, cell.settings, device)
    record = Record(
        backbone=cell.backbone,
        dataset=cell.dataset,
        held_out_accuracy=correct(head, judged) / len(judged) if len(judged) else None,
        held_out_count=len(judged),
        train_accuracy=correct(head, fitted) / len(fitted),
        train_count=len(fitted),
        class_count=len(cell.classes),
        untrained=[name for name, images in zip(cell.classes, fitted.counts, strict=True) if not images],
        unlabelled=sum(part.unlabelled for part in parts),
        unknown=sum(part.unknown for part in parts),
        failed=sum(part.failed for part in parts),
        iterations=iterations,
        fingerprint=cell.fingerprint(),
        model_fingerprint=manifest.model_fingerprint,
        model=manifest.config["model"],
        settings=cell.settings,
        versions={name: version(name) for name in PACKAGES},
    )
    Folder(url).write(cell.file, probe_bytes(head, cell.classes, record.notes()))
    return record


def _parts(cell: Cell) -> tuple[Embeddings, Embeddings]:
    """What a cell is trained on, and what is held out."""
    exports = [open_export(url) for url in cell.train]
    others = [open_export(url) for url in cell.test] or exports
    share, seed = cell.share, cell.settings.seed
    sides = (None, None) if cell.test else (held_out(share, seed, inverse=True), held_out(share, seed))
    count = len(cell.classes)
    return Embeddings(exports, count, sides[0], cell.settings.cache_rows), Embeddings(others, count, sides[1])
