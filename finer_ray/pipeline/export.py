"""The export, as a recipe: plan, template, units -> decode -> explain -> write, publish."""

import logging
import time

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy

from finer_ray.config import Config
from finer_ray.errors import InputError
from finer_ray.models import Classifier, build_classifier
from finer_ray.pipeline.cluster import connected, resources
from finer_ray.pipeline.decoding import decode_unit
from finer_ray.pipeline.explaining import Explainer
from finer_ray.pipeline.planning import make_plan, units_left
from finer_ray.pipeline.progress import Meter, Summary
from finer_ray.pipeline.question import check_question
from finer_ray.pipeline.source import UnitSource
from finer_ray.pipeline.writing import write
from finer_ray.store.files import Folder
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, Unit, write_manifest
from finer_ray.store.parts import discard, failure_count, publish
from finer_ray.store.tensors import create_tensors

WRITE_CPUS = 0.1


def export(config: Config) -> Summary:
    """Explain every image of the config's shards; what an earlier run has committed is not done again.

    Raises:
        ConfigError: the config asks for something that cannot be done; before any work.
        InputError: no images, or more failures than `input.max_failures` allows (commits are kept).
        ExportError: `output.url` holds an export of another config, model or head.
    """
    start = time.monotonic()
    classifier = build_classifier(config.model)
    check_question(config, classifier)
    folder = Folder(config.output.url)
    plan = make_plan(config, classifier, folder)
    left, waiting = units_left(plan, folder)
    if not left and not waiting and folder.read(EXPORT) and not _has_news(plan, folder):
        folder.remove(PLAN)
        discard(folder)
        return Summary(plan.counts["images"], plan.counts["failures"], 0, time.monotonic() - start)
    write_manifest(folder, PLAN, plan)
    create_tensors(folder, plan.layout, plan.rows())
    if left:
        _run(config, classifier, plan, left, folder, waiting)
    _, waiting = units_left(plan, folder)
    published = publish(folder, waiting, plan)
    write_manifest(folder, EXPORT, published)
    folder.remove(PLAN)
    discard(folder)
    new = sum(unit.count for unit in left)
    return Summary(published.counts["images"], published.counts["failures"], new, time.monotonic() - start)


def _has_news(plan: Manifest, folder: Folder) -> bool:
    """Whether the plan has shards, if only damaged ones, that the published manifest lacks."""
    content = folder.read(EXPORT)
    return content is None or len(Manifest.model_validate_json(content).shards) != len(plan.shards)


def _run(
    config: Config, classifier: Classifier, plan: Manifest, left: list[Unit], folder: Folder, waiting: list[int]
) -> None:
    done = plan.images() - sum(unit.count for unit in left)
    failed = plan.counts["failures"] + failure_count(folder, waiting)
    with connected(), Meter(plan.images(), done, failed) as meter:
        for line in _units(config, classifier, plan.layout, left, folder.url).iter_rows():
            meter.advance(line["images"] + line["failures"], line["failures"])
            _check_failures(config, meter, plan.images())


def _units(config: Config, classifier: Classifier, layout: Layout, left: list[Unit], url: str) -> Dataset:
    """The pipeline: a block is a unit from end to end."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.target_max_block_size = None
    context.issue_detectors_config.detectors = []
    share = resources(config.compute)
    region = config.metrics.localisation
    decoding = {"transform": classifier.transform, "config": config.input, "region": region}
    model = [ray.put(classifier)]
    return (
        ray.data.read_datasource(UnitSource(left, config.input), override_num_blocks=len(left))
        .map_batches(
            decode_unit,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs=decoding,
            num_cpus=config.compute.decode_cpus,
            # A pool of its own keeps Ray from fusing this stage into the actors, which are for the model.
            compute=TaskPoolStrategy(size=share.decoders),
        )
        .map_batches(
            Explainer,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=(model, config, layout, share.device, share.threads),
            compute=ActorPoolStrategy(min_size=share.actors_min, max_size=share.actors_max),
            num_cpus=share.cpus,
            num_gpus=share.gpus,
        )
        .map_batches(
            write,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"url": url, "layout": layout},
            num_cpus=WRITE_CPUS,
        )
    )


def _check_failures(config: Config, meter: Meter, total: int) -> None:
    allowed = config.input.max_failures
    if meter.failures > allowed * total:
        raise InputError(
            f"{meter.failures} of {total} images failed, more than input.max_failures {allowed:g} allows; "
            "what is done is kept. Look at parts/failures in the export, mend the input or raise the limit, "
            "and run the same command again"
        )
