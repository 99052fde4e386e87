"""Planning: which shards and units there are, and which of them are left to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version

from finer_ray.config import Config
from finer_ray.errors import ExportError, InputError
from finer_ray.models import Classifier
from finer_ray.pipeline.question import question_of
from finer_ray.retry import patiently
from finer_ray.shards import Fields, ShardIndex, ShardRef, find_shards, index_shard, stamps
from finer_ray.store.files import Folder
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import Manifest, Retired, ShardEntry, Unit
from finer_ray.store.parts import Each, committed
from finer_ray.version import __version__

PACKAGES = ("torch", "timm", "open_clip_torch", "pillow", "ray", "zarr")
# Shards that one task counts.
BATCH = 32
NAMED = 5


@dataclass(frozen=True)
class Survey:
    """What the shards are now, beside what an export has of them.

    Attributes:
        entries: shards known before and as they were, and those that are new, which have no units yet.
        changed, vanished: known shards that are not as they were.
        renewed: changed shards as they are now.
    """

    entries: list[ShardEntry]
    changed: list[ShardEntry]
    vanished: list[ShardEntry]
    renewed: list[ShardEntry]

    def notes(self, policy: str) -> list[str]:
        """What the user is told of changed and vanished shards."""
        done = {"changed": "made anew", "vanished": "taken out"} if policy == "replace" else {}
        return [
            f"{len(found)} shards {what} since their export; their rows are {done.get(what, 'kept')}: {_few(found)}"
            for what, found in (("changed", self.changed), ("vanished", self.vanished))
            if found
        ]


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


def draft(config: Config, classifier: Classifier) -> Manifest:
    """The manifest of a job, without shards."""
    return Manifest(
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
        tables={},
        counts={"images": 0, "failures": 0},
        versions={"finer_ray": __version__, **{name: version(name) for name in PACKAGES}},
    )


def make_plan(config: Config, empty: Manifest, before: Manifest | None, each: Each) -> tuple[Manifest, list[str]]:
    """The manifest of the export as it will be: the shards it has already, in their places, then new ones.

    Shards are counted once; one whose stamp has not changed is not opened again.

    Args:
        config: of the job.
        empty: the job's `draft`.
        before: what the export has, or had planned; None for a new one.
        each: calls a function with each of some items, wherever there is room.

    Returns:
        The plan, and what the user is to be told of shards that changed or vanished.

    Raises:
        InputError: no shards, or no images in them.
        ExportError: the export was made with another config, model or head, or of a shard that is not as it was.
        StoreError: a store does not answer.
    """
    if before is not None:
        before.check_same(empty)
    # A shard that gave no image is looked at again: it may have been out of reach, or be mended by now.
    known = [] if before is None else [entry for entry in before.shards if entry.index["starts"]]
    retired = [] if before is None else list(before.retired)
    survey = _survey(config, known, each)
    policy = config.input.on_changed
    notes: list[str] = []
    if survey.changed or survey.vanished:
        if policy == "refuse":
            raise ExportError(_refusal(survey))
        notes = survey.notes(policy)
    if policy == "keep":
        entries = [*survey.entries, *survey.changed, *survey.vanished]
    else:
        retired += [_retired(entry, "changed") for entry in survey.changed]
        retired += [_retired(entry, "vanished") for entry in survey.vanished]
        entries = [*survey.entries, *survey.renewed]
    plan = empty.model_copy(
        update={
            "shards": _numbered(entries, known, retired),
            "retired": retired,
            "counts": empty.counts if before is None else before.counts,
        }
    )
    if not plan.images():
        problems = "; ".join(f"{e.shard.ref.url}: {e.shard.problem or 'empty'}" for e in plan.shards[:NAMED])
        raise InputError(f"input.shards: no image in {len(plan.shards)} shards ({problems})")
    return plan, notes


def units_left(plan: Manifest, published: Manifest | None, folder: Folder) -> tuple[list[Unit], list[int]]:
    """Units that nothing has committed, and the numbers of units committed but not yet published."""
    done = set() if published is None else {unit.number for unit in published.units()}
    units = plan.units()
    waiting = (committed(folder) & {unit.number for unit in units}) - done
    return [unit for unit in units if unit.number not in done and unit.number not in waiting], sorted(waiting)


def _survey(config: Config, known: Sequence[ShardEntry], each: Each) -> Survey:
    patience = config.compute.patience

    def look() -> tuple[list[ShardRef], dict[str, str | None]]:
        refs = find_shards(config.input.shards, config.input.format)
        return refs, stamps([*refs, *(entry.shard.ref for entry in known)])

    refs, marks = patiently(look, "look for input.shards", patience)
    by_url = {entry.index["ref"]["url"]: entry for entry in known}
    same = {url for url, entry in by_url.items() if entry.stamp is not None and marks.get(url) == entry.stamp}
    # A shard that no pattern names any more, but that is still there, is as it was: a later job may name others.
    wanted = {ref.url: ref for ref in refs}
    open_ = [ref for ref in refs if ref.url not in same and ref.url in marks]
    batches = [open_[first : first + BATCH] for first in range(0, len(open_), BATCH)]
    count = partial(_count, config.input.fields.model_dump(), config.output.rows_per_unit, patience)
    indexes = [index for found in each(count, batches) for index in found]
    entries = [entry for url, entry in by_url.items() if url in same or (url in marks and url not in wanted)]
    changed, renewed, new = [], [], []
    for index in indexes:
        entry, mark = by_url.get(index.ref.url), marks[index.ref.url]
        fresh = ShardEntry(index=index.to_json(), stamp=mark, first_unit=-1)
        if entry is None:
            new.append(fresh)
        elif (index.fingerprint, index.count) == (entry.shard.fingerprint, entry.shard.count):
            entries.append(entry.model_copy(update={"stamp": mark}))
        elif not index.fingerprint:
            raise ExportError(f"{index.ref.url} is in the export, and cannot be read now: {index.problem}")
        else:
            changed.append(entry)
            renewed.append(fresh)
    vanished = [entry for url, entry in by_url.items() if url not in marks]
    return Survey([*entries, *new], changed, vanished, renewed)


def _count(
    fields: dict[str, str | None], rows_per_unit: int, patience: float, refs: list[ShardRef]
) -> list[ShardIndex]:
    return [
        patiently(
            partial(index_shard, ref, Fields.with_defaults(ref.format, fields), rows_per_unit),
            f"count the images of {ref.url}",
            patience,
        )
        for ref in refs
    ]


def _numbered(entries: list[ShardEntry], known: list[ShardEntry], retired: list[Retired]) -> list[ShardEntry]:
    """The entries in the order of their rows; those without units get numbers that no shard ever had."""
    unit = max([0, *(entry.first_unit + len(entry.index["starts"]) for entry in known)])
    unit = max([unit, *(span.first_unit + span.units for span in retired)])
    numbered = []
    for entry in entries:
        if entry.first_unit < 0:
            entry = entry.model_copy(update={"first_unit": unit})
            unit += len(entry.index["starts"])
        numbered.append(entry)
    return sorted(numbered, key=lambda entry: entry.first_unit)


def _retired(entry: ShardEntry, reason: str) -> Retired:
    return Retired.model_validate(
        {
            "url": entry.index["ref"]["url"],
            "first_unit": entry.first_unit,
            "units": len(entry.index["starts"]),
            "reason": reason,
        }
    )


def _refusal(survey: Survey) -> str:
    parts = []
    if survey.changed:
        now = [entry.index["count"] for entry in survey.renewed]
        lines = [
            f"{e.index['ref']['url']} ({e.index['count']} images then, {n} now)"
            for e, n in zip(survey.changed, now, strict=True)
        ]
        parts.append(f"{len(lines)} changed: {', '.join(lines[:NAMED])}")
    if survey.vanished:
        parts.append(f"{len(survey.vanished)} vanished: {_few(survey.vanished)}")
    return (
        f"shards are not as they were when they were exported: {'; '.join(parts)}. Set input.on_changed to replace "
        "(rows of changed shards are made anew, those of vanished ones leave the export) or keep (all stay), or choose "
        "another output.url"
    )


def _few(entries: Sequence[ShardEntry]) -> str:
    urls = [entry.index["ref"]["url"] for entry in entries]
    return ", ".join(urls[:NAMED]) + (", ..." if len(urls) > NAMED else "")
