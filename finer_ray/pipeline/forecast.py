"""The forecast: what a run would do, how long it would take, how much it would write, from a trial of a few images."""

import secrets
import time
from dataclasses import dataclass, replace
from datetime import timedelta

from finer_ray.config.schema import Config
from finer_ray.models import Classifier, build_classifier
from finer_ray.pipeline.cluster import check_device
from finer_ray.pipeline.executor import InlineExecutor, executor_of
from finer_ray.pipeline.planning import check_places, draft, make_plan, units_left
from finer_ray.pipeline.precision import with_precision
from finer_ray.pipeline.reference_files import with_part_names, with_references
from finer_ray.pipeline.stages import export_stages
from finer_ray.pipeline.targets import check_saliency
from finer_ray.store.failures import over_limit, too_many
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import EXPORT, PLAN, Unit, check_vacant, pending, read_manifest
from finer_ray.store.parts import committed_failures, failure_count
from finer_ray.store.storage import Folder
from finer_ray.store.tensors import create_tensors

WARM_UP_IMAGES, TRIAL_IMAGES, MAX_SHOWN = 2, 24, 5


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Attributes:
        shards, units, images: of the whole export.
        units_left, images_left: that nothing has committed yet.
        notes: of shards that changed or vanished.
        problems: shards that are damaged as a whole, with what is wrong.
        over_limit: that the failures so far are more than the job allows, '' where they are not.
        tried: images that were explained for trial, 0 where none is left.
        trial_failures: among them, by stage and error.
        seconds_per_image: of the trial, in this process; all stages, start-up not counted.
        bytes_per_image: of the trial, as written.
        device: that the trial ran on.
    """

    shards: int
    units: int
    images: int
    units_left: int
    images_left: int
    notes: list[str]
    problems: list[str]
    over_limit: str = ""
    tried: int = 0
    trial_failures: tuple[str, ...] = ()
    seconds_per_image: float = 0.0
    bytes_per_image: float = 0.0
    device: str = ""

    @property
    def seconds(self) -> float:
        """Of all that is left, done by one process like this."""
        return self.images_left * self.seconds_per_image

    @property
    def bytes(self) -> float:
        """That are left to be written."""
        return self.images_left * self.bytes_per_image


def forecast(config: Config) -> Forecast:
    """Plan a run, and try it on the first images that are left, in memory; nothing is written.

    Raises:
        What `export` raises before it begins.
    """
    config = with_part_names(config)
    check_device(config.compute.model_copy(update={"executor": "inline"}))
    folder = Folder(config.output.url, config.compute.retry_seconds)
    check_places(config.input.shards, folder)
    check_vacant(folder)
    classifier = build_classifier(config.model)
    config = with_references(config, classifier.classes)
    check_saliency(config, classifier)
    published = read_manifest(folder, EXPORT)
    planned = pending(read_manifest(folder, PLAN), published)
    with executor_of(config.compute) as executor:
        config, chosen = with_precision(config, classifier, executor)
        empty = draft(config, classifier, planned or published)
        plan, notes = make_plan(config, empty, planned, published, folder, executor.map)
    left, unpublished = units_left(plan, published, folder)
    failures, limit = plan.counts["failures"] + failure_count(folder, unpublished), config.input.max_failures
    stops = too_many(failures, plan.images(), limit)
    found = Forecast(
        shards=len(plan.shards),
        units=len(plan.units()),
        images=plan.images(),
        units_left=len(left),
        images_left=sum(unit.count for unit in left),
        notes=chosen + notes,
        over_limit=over_limit(folder, failures, plan.images(), limit) if stops else "",
        problems=[f"{e.shard.ref.url}: {e.shard.problem}" for e in plan.shards if e.shard.problem],
    )
    return _tried(found, config, classifier, plan.layout, left[0]) if left else found


def forecast_lines(found: Forecast) -> list[str]:
    """What `finer-ray export --dry-run` says."""
    lines = [
        f"shards   {found.shards}, {found.images} images in {found.units} units",
        f"to do    {found.images_left} images in {found.units_left} units",
    ]
    lines += [f"note     {note}" for note in found.notes]
    lines += [f"damaged  {problem}" for problem in found.problems[:MAX_SHOWN]]
    if found.over_limit:
        lines.append(f"stops    {found.over_limit}")
    if not found.tried:
        return [*lines, "nothing is left to be done"]
    lines += [
        f"tried    {found.tried} images on {found.device}, {len(found.trial_failures)} failures",
        *(f"  failed {failure}" for failure in found.trial_failures[:MAX_SHOWN]),
        f"time     about {_time(found.seconds)} for one process like this ({1000 * found.seconds_per_image:.0f} ms an "
        "image; Ray takes some seconds to start, several actors share the work)",
        f"size     about {_size(found.bytes)} ({_size(found.bytes_per_image)} an image)",
        "nothing was written" + ("" if found.over_limit else "; without --dry-run the same command does it"),
    ]
    return lines


def _tried(found: Forecast, config: Config, classifier: Classifier, layout: Layout, unit: Unit) -> Forecast:
    """The forecast, after the first images of a unit have gone through the stages, written to memory."""
    executor, folder = InlineExecutor(), Folder(f"memory://forecast-{secrets.token_hex(8)}")
    stages = export_stages(config, classifier, layout, folder.url, executor)
    warm, trial = (
        replace(unit, number=i, count=min(most, unit.count)) for i, most in enumerate((WARM_UP_IMAGES, TRIAL_IMAGES))
    )
    create_tensors(folder, layout, 2 * layout.rows_per_unit)
    lines = executor.run([warm, trial], stages)
    next(lines)
    before, start = _stored(folder), time.perf_counter()
    next(lines)
    seconds, size = time.perf_counter() - start, _stored(folder) - before
    failures = committed_failures(folder, trial.number).to_pylist()
    folder.fs.rm(folder.root, recursive=True)
    return replace(
        found,
        tried=trial.count,
        trial_failures=tuple(f"{line['key'] or ''}: {line['stage']}: {line['error']}" for line in failures),
        seconds_per_image=seconds / trial.count,
        bytes_per_image=size / trial.count,
        device=executor.resources(config.compute).device,
    )


def _stored(folder: Folder) -> int:
    """Bytes of a folder's files."""
    return sum(info["size"] for info in folder.fs.find(folder.root, detail=True).values())


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
