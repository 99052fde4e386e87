"""Planning: which units there are, and which of them are left to do."""

from dataclasses import asdict
from importlib.metadata import version

from finer_ray.config import Config
from finer_ray.errors import ExportError, InputError
from finer_ray.models import Classifier
from finer_ray.pipeline.question import question_of
from finer_ray.shards import Fields, ShardRef, find_shards, index_shard, stamp
from finer_ray.store.files import Folder
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import EXPORT, PLAN, Manifest, ShardEntry, Unit, read_manifest
from finer_ray.store.parts import committed
from finer_ray.version import __version__

PACKAGES = ("torch", "timm", "open_clip_torch", "pillow", "ray", "zarr")


def layout_of(config: Config, classifier: Classifier) -> Layout:
    """The Zarr layout that a config and its model lead to."""
    question = question_of(config, classifier)
    return Layout(
        maps=tuple(wanted.name for wanted in question.maps),
        references=question.reference_count(len(classifier.classes)),
        grid=classifier.grid_size,
        embedding=classifier.embedding_size if config.output.embedding else None,
        basis=config.output.basis,
        rows_per_unit=config.output.rows_per_unit,
        rows_per_chunk=config.output.rows_per_chunk,
    )


def make_plan(config: Config, classifier: Classifier, folder: Folder) -> Manifest:
    """The manifest of the export as it will be: the shards it has already, in their places, then new ones.

    Shards are counted once; one whose stamp has not changed is not opened again.

    Raises:
        InputError: no shards, or no images in them.
        ExportError: the export was made with another config, model or head, or of a shard that has changed.
    """
    published = read_manifest(folder, EXPORT)
    before = read_manifest(folder, PLAN) or published
    plan = Manifest(
        status="running",
        config=config.model_dump(mode="json"),
        config_fingerprint=config.fingerprint(),
        model_fingerprint=classifier.model_fingerprint,
        head_fingerprint=classifier.head_fingerprint,
        classes=[*classifier.classes.names, *classifier.concepts.names],
        concepts=len(classifier.concepts),
        transform=asdict(classifier.transform),
        layout=layout_of(config, classifier),
        shards=[],
        tables={} if published is None else published.tables,
        counts={"images": 0, "failures": 0} if published is None else published.counts,
        versions={"finer_ray": __version__, **{name: version(name) for name in PACKAGES}},
    )
    if before is not None:
        before.check_same(plan)
    # A shard that gave no image is looked at again: it may have been out of reach, or be mended by now.
    known = [] if before is None else [entry for entry in before.shards if entry.shard.starts]
    plan = plan.model_copy(update={"shards": _entries(config, known)})
    if not plan.images():
        problems = "; ".join(f"{e.shard.ref.url}: {e.shard.problem or 'empty'}" for e in plan.shards[:5])
        raise InputError(f"input.shards: no image in {len(plan.shards)} shards ({problems})")
    return plan


def units_left(plan: Manifest, folder: Folder) -> tuple[list[Unit], list[int]]:
    """Units that nothing has committed, and the numbers of units committed but not yet published."""
    published = read_manifest(folder, EXPORT)
    done = set() if published is None else {unit.number for unit in published.units()}
    waiting = committed(folder) - done
    left = [unit for unit in plan.units() if unit.number not in done | waiting]
    return left, sorted(waiting)


def _entries(config: Config, known: list[ShardEntry]) -> list[ShardEntry]:
    refs = find_shards(config.input.shards, config.input.format)
    by_url = {entry.shard.ref.url: entry for entry in known}
    entries = list(known)
    unit = max((entry.first_unit + len(entry.shard.starts) for entry in known), default=0)
    for ref in refs:
        before, mark = by_url.get(ref.url), stamp(ref)
        if before is not None and mark is not None and mark == before.stamp:
            continue
        shard = index_shard(ref, _fields(config, ref), config.output.rows_per_unit)
        if before is None:
            entries.append(ShardEntry(index=shard.to_json(), stamp=mark, first_unit=unit))
            unit += len(shard.starts)
        elif (shard.fingerprint, shard.count) != (before.shard.fingerprint, before.shard.count):
            raise ExportError(
                f"{ref.url} has changed since it was exported ({before.shard.count} images then, {shard.count} now); "
                "give the changed shard a new name, or choose another output.url"
            )
    return entries


def _fields(config: Config, ref: ShardRef) -> Fields:
    return Fields.with_defaults(ref.format, config.input.fields.model_dump())
