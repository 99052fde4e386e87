"""The export, as a recipe: lease, plan, template, units -> load -> explain -> write, publish."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources, TaskPoolStrategy

from finer_ray.config.schema import Config
from finer_ray.errors import InputError, StoreError
from finer_ray.models import Classifier, build_classifier
from finer_ray.pipeline.cluster import Crew, Resources, check_device, own_resources, plain_errors, resources
from finer_ray.pipeline.explaining import LOST, Explainer
from finer_ray.pipeline.loading import Loader
from finer_ray.pipeline.planning import check_places, draft, make_plan, units_left
from finer_ray.pipeline.progress import Meter, Summary
from finer_ray.pipeline.source import UnitSource
from finer_ray.pipeline.targets import check_question
from finer_ray.pipeline.writing import unknown_label_note, write
from finer_ray.store.failures import over_limit, too_many
from finer_ray.store.layout import Layout
from finer_ray.store.lease import Lease, hold
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ManifestFile, Unit, check_vacant, pending
from finer_ray.store.parts import clear, committed, failure_count, publish
from finer_ray.store.similarity import similarity_files, write_similarity
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import create_tensors, erase_units

# Units that one Ray Data pipeline is given: it holds a task for each from the beginning.
WAVE = 16_384
# After so many units a loading process is replaced, whatever its image libraries have leaked.
UNITS_PER_PROCESS = 512
# Units in the object store for each that may be worked on: enough that no stage waits for another, however many follow.
# With 2, loading processes stood still long enough for Ray to end them, and their start took as long as the work.
UNITS_EACH = 8


def export(config: Config) -> Summary:
    """Explain every image of the config's shards; what an earlier run has committed is not done again.

    Raises:
        ConfigError: the config asks for something that cannot be done; before any work.
        InputError: no images, or more failures than `input.max_failures` allows (commits are kept).
        ExportError: `output.url` holds an export of another config, model or head, or of shards that have changed; or
            what is no export.
        LeaseError: another run writes to it.
        StoreError: a store refuses, or does not answer for longer than `compute.patience` (commits are kept).
    """
    start = time.monotonic()
    check_device(config.compute)
    folder = Folder(config.output.url, config.compute.patience)
    check_places(config.input.shards, folder)
    check_vacant(folder)
    classifier = build_classifier(config.model)
    check_question(config, classifier)
    with hold(folder, config.output.lease_seconds) as lease, Crew(config.compute.runner == "inline") as crew:
        try:
            summary = _export(config, classifier, folder, lease, crew)
        except (StoreError, FileNotFoundError) as error:
            # Whoever has taken over may have cleared up what this run was about to read or write.
            with suppress(StoreError):
                lease.confirm()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{folder.url}: a file is gone ({error}); run the same command again") from error
    return replace(summary, seconds=time.monotonic() - start)


def _export(config: Config, classifier: Classifier, folder: Folder, lease: Lease, crew: Crew) -> Summary:
    plan_file, export_file = ManifestFile(folder, PLAN), ManifestFile(folder, EXPORT)
    published = export_file.manifest
    planned = pending(plan_file.manifest, published)
    if published is not None and planned is None and plan_file.manifest is not None:
        clear(folder, plan_file, export_file)
    plan, notes = make_plan(config, draft(config, classifier), planned, published, folder, crew.each)
    left, waiting = units_left(plan, published, folder)
    if published is not None and not left and not waiting and not _has_news(plan, published):
        # Also the late commits of a run that stood still while another published.
        if plan_file.manifest is not None or committed(folder):
            clear(folder, plan_file, export_file)
        if (stamped := _with_stamps(published, plan)) != published:
            # Shards that were read again and are the same have other times now: once is enough.
            export_file.write(stamped)
        return Summary(**published.counts, new=0, notes=notes)
    lease.confirm()
    plan = _erased(plan, published, folder).model_copy(update={"tables": _kept_tables(classifier, published)})
    plan_file.write(plan)
    if published is None:
        write_similarity(folder, classifier.class_weights())
    create_tensors(folder, plan.layout, plan.rows())
    failed = plan.counts["failures"] + failure_count(folder, waiting)
    _check_failures(config, failed, plan.images())
    if left:
        notes += _run(config, classifier, plan, left, folder, failed, lease, crew)
    missing, waiting = units_left(plan, published, folder)
    lease.confirm()
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(left)} units that this run has committed to {folder.url}/parts are not there any "
            "more; nothing is published. Run the same command again"
        )
    # Again, in case a run that stood still has come between.
    create_tensors(folder, plan.layout, plan.rows())
    made = publish(folder, waiting, plan_file, export_file, crew.each, lease.confirm)
    return Summary(**made.counts, new=sum(unit.count for unit in left), notes=notes)


def _with_stamps(published: Manifest, plan: Manifest) -> Manifest:
    """The published manifest with the plan's signs of change for the shards that have rows."""
    stamps = {entry.first_unit: entry.stamp for entry in plan.shards if entry.index["starts"]}
    shards = [
        entry.model_copy(update={"stamp": stamps.get(entry.first_unit, entry.stamp)})
        if entry.index["starts"]
        else entry
        for entry in published.shards
    ]
    return published.model_copy(update={"shards": shards})


def _kept_tables(classifier: Classifier, published: Manifest | None) -> dict[str, list[str]]:
    """Tables that come of no unit: the similarity, which the first run writes; a later one has the same head."""
    if published is None:
        return {"similarity": similarity_files(classifier.class_weights())}
    # Exports of earlier versions have no such table.
    return {"similarity": published.tables.get("similarity", [])}


def _has_news(plan: Manifest, published: Manifest) -> bool:
    """Whether the plan has shards, if only damaged ones, that the published manifest lacks, or lacks some of its."""
    return len(published.shards) != len(plan.shards) or len(published.retired) != len(plan.retired)


def _erased(plan: Manifest, published: Manifest | None, folder: Folder) -> Manifest:
    """Tensors that were retired by an earlier publication go now; readers had one publication's time."""
    before = [] if published is None else published.retired
    due = [span for span in plan.retired if span in before and not span.erased]
    for span in due:
        erase_units(folder, plan.layout, range(span.first_unit, span.first_unit + span.units))
    retired = [span.model_copy(update={"erased": True}) if span in due else span for span in plan.retired]
    return plan.model_copy(update={"retired": retired})


def _run(
    config: Config,
    classifier: Classifier,
    plan: Manifest,
    left: list[Unit],
    folder: Folder,
    failed: int,
    lease: Lease,
    crew: Crew,
) -> list[str]:
    """Explain the units that are left; what the user is to be told of their labels.

    `failed` is how many images of the others could not be used.
    """
    done = plan.images() - sum(unit.count for unit in left)
    work = _here if config.compute.runner == "inline" else partial(_on_ray, crew)
    folder.remove(LOST)
    unknown, reasons = 0, Counter[str]()
    with Meter(plan.images(), done, failed) as meter:
        for line in work(config, classifier, plan.layout, left, folder.url):
            meter.advance(line["images"] + line["failures"], line["failures"])
            lease.tell(done=meter.done, total=meter.total, failures=meter.failures, rate=meter.rate)
            lease.check()
            _check_failures(config, meter.failures, plan.images())
            unknown += line["unknown_labels"]
            reasons.update(json.loads(line["unknown_label_reasons"]))
    return [unknown_label_note(unknown, reasons)] if unknown else []


def _on_ray(
    crew: Crew, config: Config, classifier: Classifier, layout: Layout, left: list[Unit], url: str
) -> Iterator[dict[str, Any]]:
    crew.join()
    model = [ray.put(classifier)]
    with plain_errors():
        for first in range(0, len(left), WAVE):
            units = left[first : first + WAVE]
            # Not `iter_rows`, which tells of each unit when the next one is done, and after a failure leaves a thread
            # behind that holds blocks, for whose sake Ray may keep the actor and its CPUs.
            for bundle in _pipeline(config, classifier, model, layout, units, url).iter_internal_ref_bundles():
                for block in bundle.block_refs:
                    yield from ray.get(block).to_pylist()


def _here(
    config: Config, classifier: Classifier, layout: Layout, left: list[Unit], url: str
) -> Iterator[dict[str, Any]]:
    """The same stages, one unit after the other, in this process."""
    share = own_resources(config.compute)
    loader = _loader(config, classifier)
    explainer = Explainer(classifier, config, layout, share)
    for unit in left:
        yield from write(explainer(loader(unit)), url, layout, config.compute.patience).to_pylist()


def _pipeline(
    config: Config, classifier: Classifier, model: list[Any], layout: Layout, units: list[Unit], url: str
) -> Dataset:
    """The stages on Ray Data: a block is a unit from end to end."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.target_max_block_size = None
    context.raise_original_map_exception = True
    context.issue_detectors_config.detectors = []
    share = resources(config.compute)
    loader = _loader(config, classifier)
    room = _room(share, layout.rows_per_unit * (loader.row_bytes + layout.row_bytes()))
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=room)
    return (
        ray.data.read_datasource(
            UnitSource(units, loader),
            override_num_blocks=len(units),
            num_cpus=config.compute.decode_cpus,
            compute=TaskPoolStrategy(size=share.decoders),
            # Also what keeps Ray from fusing this stage into the actors, which are for the model.
            max_calls=UNITS_PER_PROCESS,
        )
        .map_batches(
            Explainer,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(model, config, layout, share),
            compute=ActorPoolStrategy(
                min_size=share.actors_min,
                max_size=share.actors_max,
                max_concurrent_calls_per_actor=share.units,
                # Else Ray has the calls wait for each other.
                enable_true_multi_threading=share.units > 1,
            ),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
        )
        .map_batches(
            write,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"url": url, "layout": layout, "patience": config.compute.patience},
            compute=TaskPoolStrategy(size=share.writers),
            # Else writing waits until loading leaves it a CPU, and commits come late.
            num_cpus=0,
        )
    )


def _room(share: Resources, unit: int) -> int:
    """Bytes of the object store that loaded and explained units may take; else loading, which is ahead of the model,
    fills whatever share of it Ray allows."""
    return UNITS_EACH * (share.decoders + share.actors_max + share.writers) * unit


def _loader(config: Config, classifier: Classifier) -> Loader:
    return Loader(config.input, classifier.transform, config.metrics.localisation, config.compute.patience)


def _check_failures(config: Config, failures: int, total: int) -> None:
    allowed = config.input.max_failures
    if too_many(failures, total, allowed):
        raise InputError(over_limit(Folder(config.output.url), failures, total, allowed))
