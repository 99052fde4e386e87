"""Planning: which shards and units there are, and which of them are left to do."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any

from braceexpand import braceexpand
from fsspec.utils import glob_translate

from finer_ray.config.messages import clipped
from finer_ray.config.schema import PATCHES, Config, fingerprint_of
from finer_ray.errors import ConfigError, ExportError, InputError
from finer_ray.models import Classifier
from finer_ray.pipeline.targets import saliency_spec
from finer_ray.retry import retry
from finer_ray.shards import ShardIndex, ShardRef, fields_of, find_shards, index_shard, stamps, unit_digest
from finer_ray.shards.changes import is_tag
from finer_ray.shards.files import locate
from finer_ray.shards.parquet import FIELDS
from finer_ray.store import derived
from finer_ray.store.layout import Layout
from finer_ray.store.manifest import Manifest, Retired, ShardEntry, Unit, entry_units
from finer_ray.store.parts import Mapper, committed, committed_digests
from finer_ray.store.storage import Folder
from finer_ray.store.tables import DERIVED
from finer_ray.version import __version__

PACKAGES = ("torch", "timm", "open_clip_torch", "pillow", "ray", "zarr")
# Shards that one task counts.
BATCH = 32
MAX_NAMED = 5
WILDCARD = re.compile(r"[*?\[{]")
# Tables of an export that a pattern could take for shards; and names of a pattern's ranges that are looked at.
OWN_TABLES = (
    "classes.parquet",
    "images/unit.parquet",
    "parts/images/0.parquet",
    "retired/images/unit.parquet",
    *map(derived.file_of, DERIVED),
)
EXPANSIONS = 1000
DigestsOf = Callable[[ShardEntry], list[str | None]]


@dataclass(frozen=True)
class ShardChanges:
    """What the shards are now, beside what an export has of them.

    Attributes:
        entries: shards known before and as they were, and those that are new, which have no units yet.
        changed, vanished: known shards that are not as they were.
        replaced: changed shards as they are now.
    """

    entries: list[ShardEntry]
    changed: list[ShardEntry]
    vanished: list[ShardEntry]
    replaced: list[ShardEntry]

    def notes(self, policy: str) -> list[str]:
        """What the user is told of changed and vanished shards."""
        done = {} if policy == "keep" else {"changed": "made anew", "vanished": "taken out"}
        return [
            f"{len(found)} shards {what} since their export; their rows are {done.get(what, 'kept')}: {_few(found)}"
            for what, found in (("changed", self.changed), ("vanished", self.vanished))
            if found
        ]


def layout_of(config: Config, classifier: Classifier, before: Layout | None = None) -> Layout:
    """The Zarr layout that a config and its model lead to.

    Args:
        config: of the job.
        classifier: its model.
        before: of an export that goes on: its registration is kept (measuring takes seconds, and another machine may
            round otherwise), and its number of patches, which is none where it was begun before there were any.
    """
    spec = saliency_spec(config, classifier)
    if before is not None:
        registration = before.registration
    else:
        registration = classifier.measured_registration() if config.saliency.registration == "measured" else None
    return Layout(
        maps=tuple(wanted.name for wanted in spec.maps),
        targets=spec.targets,
        references=spec.reference_count(len(classifier.classes)),
        grid=classifier.grid_size,
        embedding=classifier.embedding_size if config.output.embedding else None,
        basis=config.output.basis,
        rows_per_unit=config.output.rows_per_unit,
        rows_per_chunk=config.output.rows_per_chunk,
        registration=registration,
        patches=config.output.patches if before is None else before.patches,
        parts=bool(config.input.fields.parts),
        map_embedding=classifier.activation_size if config.output.map_embedding else None,
    )


def draft(config: Config, classifier: Classifier, before: Manifest | None = None) -> Manifest:
    """The manifest of a job, without shards; `before` is that of an export that goes on."""
    tree = config.model_dump(mode="json")
    if before is not None and "patches" not in before.config["output"] and config.output.patches in (0, PATCHES):
        # It was begun before there were any, and goes on without.
        del tree["output"]["patches"]
    return Manifest(
        status="running",
        config=tree,
        config_fingerprint=fingerprint_of(tree),
        model_fingerprint=classifier.model_fingerprint,
        head_fingerprint=classifier.head_fingerprint,
        classes=[*classifier.classes.names, *classifier.concepts.names],
        concepts=len(classifier.concepts),
        transform=asdict(classifier.transform),
        layout=layout_of(config, classifier, None if before is None else before.layout),
        columns=dict.fromkeys(config.input.columns, "null"),
        usual_key=FIELDS.key,
        shards=[],
        tables={},
        counts={"images": 0, "failures": 0},
        versions={"finer_ray": __version__, **{name: version(name) for name in PACKAGES}, **classifier.sources},
    )


def check_places(patterns: Sequence[str], folder: Folder) -> None:
    """Refuse an output that holds the input, or lies in it: one of them would be taken for the other.

    Args:
        patterns: `input.shards`.
        folder: the output's.

    Raises:
        ConfigError: naming both.
    """
    for pattern in patterns:
        if _overlap(pattern, folder):
            raise ConfigError(
                f"output.url: {folder.url} holds input.shards {clipped(pattern)!r}, or lies in it, so that one would "
                "be taken for the other: choose a folder of its own"
            )


def _overlap(pattern: str, folder: Folder) -> bool:
    """Whether a pattern names the folder, something in it, or a folder around it, as far as its text tells."""
    try:
        fs, path = locate(pattern)
    except Exception:
        # Whoever looks for the shards says what is wrong with it.
        return False
    if type(fs) is not type(folder.fs):
        return False
    place = folder.root.rstrip("/")
    # What stands before the first part with a wildcard or a range.
    parts = path.split("/")
    count = next((number for number, part in enumerate(parts) if WILDCARD.search(part)), len(parts))
    fixed = "/".join(parts[:count]).rstrip("/")
    if folder.local:
        fixed, place = os.path.realpath(fixed or "/"), os.path.realpath(place)
    if _within(fixed, place):
        return True
    if count == len(parts):
        return _within(place, fixed)
    wildcards = "/".join([fixed.rstrip("/"), *parts[count:]])
    texts = islice(braceexpand(wildcards), EXPANSIONS) if "{" in wildcards else [wildcards]
    return any(re.match(glob_translate(text), f"{place}/{table}") for text in texts for table in OWN_TABLES)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def make_plan(
    config: Config,
    empty: Manifest,
    planned: Manifest | None,
    published: Manifest | None,
    folder: Folder,
    mapper: Mapper,
) -> tuple[Manifest, list[str]]:
    """The manifest of the export as it will be: the shards it has already, in their places, then new ones.

    Shards are counted once; one whose stamp has not changed is not opened again.

    Args:
        config: of the job.
        empty: the job's `draft`.
        planned: what a run that did not end had planned; None where there is no such plan.
        published: what the export has; None for a new one.
        folder: of the export.
        mapper: as the built-in map; calls may run elsewhere.

    Returns:
        The plan, and what the user is to be told of shards that changed or vanished.

    Raises:
        InputError: no shards, or no images in them.
        ExportError: the export was made with another config, model or head, or of a shard that is not as it was.
        StoreError: a store does not answer.
    """
    before = planned or published
    if before is not None:
        before.check_same(empty)
        empty = empty.model_copy(update={"usual_key": before.usual_key})
        config = as_begun(config, empty)
    # A shard that gave no image is looked at again: it may have been out of reach, or be mended by now.
    known = [] if before is None else [entry for entry in before.shards if entry.index["starts"]]
    retired = [] if before is None else list(before.retired)
    survey = _survey(config, known, _digests(known, published, folder), mapper)
    policy = config.input.on_changed
    # What nobody has seen yet is done anew without being asked for: its shard was perhaps mended.
    seen = set() if published is None else {entry.first_unit for entry in published.shards}
    if policy == "refuse" and any(entry.first_unit in seen for entry in (*survey.changed, *survey.vanished)):
        raise ExportError(_refusal(survey))
    notes = survey.notes(policy)
    if config.output.patches and not empty.layout.patches:
        notes.append("the export was begun by a version that stored no patches, and goes on without them")
    if policy == "keep":
        entries = [*survey.entries, *survey.changed, *survey.vanished]
    else:
        retired += [_retired(entry, "changed") for entry in survey.changed]
        retired += [_retired(entry, "vanished") for entry in survey.vanished]
        entries = [*survey.entries, *survey.replaced]
    plan = empty.model_copy(
        update={
            "shards": _numbered(entries, known, retired),
            "retired": retired,
            "counts": empty.counts if published is None else published.counts,
            "base": -1 if published is None else published.revision,
            "obsolete": [] if planned is None else planned.obsolete,
        }
    )
    if not plan.images():
        problems = "; ".join(f"{e.shard.ref.url}: {e.shard.problem or 'empty'}" for e in plan.shards[:MAX_NAMED])
        raise InputError(f"input.shards: no image in {len(plan.shards)} shards ({problems})")
    return plan, notes


def as_begun(config: Config, plan: Manifest) -> Config:
    """The config by which keys are what they are in the export that a plan is of."""
    fields = config.input.fields.model_copy(update={"key": plan.fields()["key"]})
    return config.model_copy(update={"input": config.input.model_copy(update={"fields": fields})})


def units_left(plan: Manifest, published: Manifest | None, folder: Folder) -> tuple[list[Unit], list[int]]:
    """Units that nothing has committed, and the numbers of units committed but not yet published."""
    done = set() if published is None else {unit.number for unit in published.units()}
    units = plan.units()
    unpublished = (committed(folder) & {unit.number for unit in units}) - done
    return [unit for unit in units if unit.number not in done and unit.number not in unpublished], sorted(unpublished)


def _digests(known: Sequence[ShardEntry], published: Manifest | None, folder: Folder) -> DigestsOf:
    """For an entry, the digests of what was read for its units, None for those that nobody has committed."""
    done = set() if published is None else {entry.first_unit for entry in published.shards}

    def digests(entry: ShardEntry) -> list[str | None]:
        units = range(entry.first_unit, entry.first_unit + len(entry.index["starts"]))
        if entry.first_unit in done:
            return [*entry.digests] or [""] * len(units)
        found = committed_digests(folder, sorted(committed(folder) & set(units)))
        return [found.get(unit) for unit in units]

    return digests


def _survey(config: Config, known: Sequence[ShardEntry], digests: DigestsOf, mapper: Mapper) -> ShardChanges:
    retry_seconds = config.compute.retry_seconds

    def look() -> tuple[list[ShardRef], dict[str, str | None]]:
        refs = find_shards(config.input.shards, config.input.format)
        return refs, stamps([*refs, *(entry.shard.ref for entry in known)])

    refs, marks = retry(look, "look for input.shards", retry_seconds)
    by_url = {entry.index["ref"]["url"]: entry for entry in known}
    same = {url for url, entry in by_url.items() if entry.stamp is not None and marks.get(url) == entry.stamp}
    # A shard that no pattern names any more, but that is still there, is as it was: a later job may name others.
    wanted = {ref.url: ref for ref in refs}
    open_ = [ref for ref in refs if ref.url not in same and ref.url in marks]
    batches = [open_[first : first + BATCH] for first in range(0, len(open_), BATCH)]
    count = partial(_count, config.input.places(), config.output.rows_per_unit, retry_seconds)
    indexes = [index for found in mapper(count, batches) for index in found]
    entries = [entry for url, entry in by_url.items() if url in same or (url in marks and url not in wanted)]
    changed, replaced, new, doubtful = [], [], [], []
    for index in indexes:
        entry, mark = by_url.get(index.ref.url), marks[index.ref.url]
        fresh = ShardEntry(index=index.to_json(), stamp=mark, first_unit=-1)
        if entry is None:
            new.append(fresh)
        elif not index.fingerprint:
            raise ExportError(f"{index.ref.url} is in the export, and cannot be read now: {index.problem}")
        elif (index.fingerprint, index.count) == (entry.shard.fingerprint, entry.shard.count) and not (
            is_tag(mark) and is_tag(entry.stamp)
        ):
            doubtful.append((entry, fresh, digests(entry)))
        else:
            changed.append(entry)
            replaced.append(fresh)
    # Headers are the same; whether bodies are, only reading them tells.
    for (entry, fresh, _), kept in zip(doubtful, mapper(partial(_is_same, config), doubtful), strict=True):
        if kept:
            entries.append(entry.model_copy(update={"stamp": fresh.stamp}))
        else:
            changed.append(entry)
            replaced.append(fresh)
    vanished = [entry for url, entry in by_url.items() if url not in marks]
    return ShardChanges([*entries, *new], changed, vanished, replaced)


def _is_same(config: Config, shard_then_and_now: tuple[ShardEntry, ShardEntry, list[str | None]]) -> bool:
    """Whether what was read of a shard is what it holds now; headers are known to be the same.

    Args:
        config: of the job.
        shard_then_and_now: its entry as it was and as it is, and the digests of its units: None for those of which
            nothing was read yet, '' for those that an earlier version has read.
    """
    entry, fresh, digests = shard_then_and_now
    if all(digest is None for digest in digests):
        return True
    if "" in digests:
        # As far as can be told: of an image folder nothing says that it has changed.
        return entry.stamp is None
    shard = fresh.shard
    fields = fields_of(shard.ref.format, config.input.places())
    for unit, digest in zip(entry_units(fresh, config.output.rows_per_unit), digests, strict=True):
        if digest is None:
            continue
        read = partial(unit_digest, shard.ref, fields, unit.start, unit.count, config.input.max_member_bytes)
        if retry(read, f"read {unit.url}", config.compute.retry_seconds) != digest:
            return False
    return True


def _count(fields: dict[str, Any], rows_per_unit: int, retry_seconds: float, refs: list[ShardRef]) -> list[ShardIndex]:
    return [
        retry(
            partial(index_shard, ref, fields_of(ref.format, fields), rows_per_unit),
            f"count the images of {ref.url}",
            retry_seconds,
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


def _refusal(survey: ShardChanges) -> str:
    parts = []
    if survey.changed:
        now = [entry.index["count"] for entry in survey.replaced]
        lines = [
            f"{e.index['ref']['url']} ({e.index['count']} images then, {n} now)"
            for e, n in zip(survey.changed, now, strict=True)
        ]
        parts.append(f"{len(lines)} changed: {', '.join(lines[:MAX_NAMED])}")
    if survey.vanished:
        parts.append(f"{len(survey.vanished)} vanished: {_few(survey.vanished)}")
    return (
        f"shards are not as they were when they were exported: {'; '.join(parts)}. Set input.on_changed to replace "
        "(rows of changed shards are made anew, those of vanished ones leave the export) or keep (all stay), or choose "
        "another output.url"
    )


def _few(entries: Sequence[ShardEntry]) -> str:
    urls = [entry.index["ref"]["url"] for entry in entries]
    return ", ".join(urls[:MAX_NAMED]) + (", ..." if len(urls) > MAX_NAMED else "")
