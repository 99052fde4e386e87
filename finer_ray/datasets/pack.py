"""Packing: a published data set into shards, one call each; shards that are done are not written again."""

import glob
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import file_digest, sha256
from io import BufferedRandom
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from finer_ray.config.messages import brief
from finer_ray.datasets.catalogue import choose, list_dataset
from finer_ray.datasets.dataset import Choice
from finer_ray.datasets.entry import read_entries
from finer_ray.datasets.listing import Finding, Findings, Listing, Record
from finer_ray.datasets.writers import WRITERS
from finer_ray.errors import ConfigError, ExportError, InputError
from finer_ray.pipeline.executor import Executor, RayExecutor
from finer_ray.pipeline.progress import Progress, ProgressBar
from finer_ray.shards.files import DRAFT, whole_file
from finer_ray.store.storage import Folder
from finer_ray.urls import NO_SECRETS, holds_secret
from finer_ray.version import __version__

PACK, FINDINGS, CLASSES, DONE = "pack.json", "findings.txt", "classes.txt", "done"
UNSPLIT = "all"
MAX_SHOWN = 3
# Raised when the same records lead to other shards than before.
LAYOUT = 1


@dataclass(frozen=True)
class Packing:
    """What to pack, where to, and how.

    Attributes:
        format: the data set's layout, a name in `finer_ray.datasets.catalogue.DATASETS`.
        source: its folder (for `parquet` also a file or another fsspec URL); every node must reach it.
        to: the folder or fsspec URL that gets the shards.
        form: webdataset or parquet.
        split: one of the set's splits, or all; each split has shards of its own, by its name.
        label, task: which labels and which list of images, where the set offers more than one; None for its first.
        rows_per_shard: images in a shard, less those that cannot be read.
    """

    format: str
    source: str
    to: str
    form: str = "webdataset"
    split: str = "all"
    label: str | None = None
    task: str | None = None
    rows_per_shard: int = 1000


class Shard(BaseModel):
    """A shard that was written: its note in `done/`.

    Attributes:
        name: of its file.
        split: its split.
        records: digest of the records that it was made of.
        images, boxes, masks: in it.
        bytes, sha256: of its file.
        findings: what came up when its images were read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    split: str
    records: str
    images: int
    boxes: int
    masks: int
    bytes: int
    sha256: str
    findings: list[Finding] = []


@dataclass(frozen=True)
class Plan:
    """A shard to be: its name, its split and its records."""

    name: str
    split: str
    records: tuple[Record, ...]

    @property
    def fingerprint(self) -> str:
        """Digest of its records."""
        return sha256(b"".join(record.fingerprint() for record in self.records)).hexdigest()


@dataclass(frozen=True)
class Packed:
    """What a run did.

    Attributes:
        shards: all of the data set.
        new: how many of them this run wrote.
        findings: all of them, in order.
        classes: how many.
        seconds: that it took.
    """

    shards: list[Shard]
    new: int
    findings: list[Finding]
    classes: int
    seconds: float

    def lines(self) -> Iterator[str]:
        """The report for the screen: counts by split, findings by kind with the first few."""
        for split, group in groupby(self.shards, lambda shard: shard.split):
            run = list(group)
            images, boxes, masks = (sum(getattr(s, name) for s in run) for name in ("images", "boxes", "masks"))
            yield f"{split}: {images} images in {len(run)} shards, {boxes} with a box, {masks} with a mask"
        yield f"{self.classes} classes; {self.new} of {len(self.shards)} shards written now, {self.seconds:.0f} s"
        for kind, count in Counter(finding.kind for finding in self.findings).items():
            some = [str(finding) for finding in self.findings if finding.kind == kind][:MAX_SHOWN]
            yield f"{count} {kind}:"
            yield from (f"  {line}" for line in some)
            if count > MAX_SHOWN:
                yield f"  ... ({FINDINGS} has them all)"


def pack(packing: Packing, executor: Executor | None = None) -> Packed:
    """Pack a data set; what an earlier run with the same options has written, of the same records, is kept.

    Args:
        packing: what, where to, and how.
        executor: that shards are written by; Ray where None.

    Raises:
        ConfigError: an option is not valid, or the folder holds shards of other options, or of nobody knows what.
        InputError: the data set is not in its published layout.
        ExportError: a shard cannot be written; run again, what is done is kept.
    """
    start = time.monotonic()
    choice = _checked(packing)
    listing = list_dataset(packing.format, packing.source, choice)
    plans = _plans(packing, listing)
    folder = Folder(packing.to)
    _claim(folder, packing, choice, plans, listing.tables)
    done = {plan.name: shard for plan in plans if (shard := _finished(folder, plan)) is not None}
    left = [plan for plan in plans if plan.name not in done]
    if left:
        with executor or RayExecutor() as running:
            done |= {shard.name: shard for shard in _run(packing, left, list(done.values()), running)}
    shards = [done[plan.name] for plan in plans]
    findings = [*listing.findings, *(finding for shard in shards for finding in shard.findings)]
    _finish(folder, packing, choice, listing, shards, findings)
    return Packed(shards, len(left), findings, len(listing.classes), time.monotonic() - start)


def write_shard(packing: Packing, plan: Plan) -> Shard:
    """Write one shard as a whole, then its note. Images that cannot be read are left out and noted.

    Raises:
        OSError: it cannot be written.
    """
    findings = Findings()
    images = boxes = masks = 0
    folder = Folder(packing.to)
    with whole_file(f"{folder.url}/{plan.name}") as file:
        with WRITERS[packing.form](file) as writer:
            for entry, found in read_entries(packing.source, plan.records):
                findings += found
                if entry is not None:
                    writer.write(entry)
                    images, boxes, masks = images + 1, boxes + bool(entry.box), masks + bool(entry.mask)
        size = file.tell()
        file.seek(0)
        digest = file_digest(cast(BufferedRandom, file), "sha256").hexdigest()
    shard = Shard(
        name=plan.name,
        split=plan.split,
        records=plan.fingerprint,
        images=images,
        boxes=boxes,
        masks=masks,
        bytes=size,
        sha256=digest,
        findings=list(findings),
    )
    folder.write(_note(plan), shard.model_dump_json(indent=1).encode())
    return shard


def _checked(packing: Packing) -> Choice:
    """The choice of labels, of options that are valid. Raises ConfigError."""
    for option, place in (("--source", packing.source), ("--to", packing.to)):
        if holds_secret(place):
            raise ConfigError(f"{option}: {NO_SECRETS}")
    choice = choose(packing.format, packing.label, packing.task)
    if packing.form not in WRITERS:
        raise ConfigError(f"--as: {packing.form!r} is none of {', '.join(WRITERS)}")
    if packing.rows_per_shard < 1:
        raise ConfigError(f"--rows-per-shard: {packing.rows_per_shard} is less than 1")
    folder = Folder(packing.to)
    if folder.local and Path(folder.root).resolve().is_relative_to(Path(packing.source).expanduser().resolve()):
        raise ConfigError(f"--to: {packing.to!r} lies in the source's folder, which would grow by what is packed")
    return choice


def _plans(packing: Packing, listing: Listing) -> list[Plan]:
    """The shards, split by split, in the order of the records."""
    by_split: dict[str, list[Record]] = {}
    for record in listing.records:
        by_split.setdefault(record.split or UNSPLIT, []).append(record)
    if packing.split != "all" and packing.split not in by_split:
        raise ConfigError(f"--split: {packing.split!r} is none of {', '.join(['all', *by_split])}")
    if not by_split:
        some = "".join(f"\n  {finding}" for finding in listing.findings[:MAX_SHOWN])
        raise InputError(f"--source: none of the images that {packing.format} lists is in {packing.source!r}{some}")
    size, suffix = packing.rows_per_shard, WRITERS[packing.form].suffix
    return [
        Plan(f"{split}-{number:06d}{suffix}", split, tuple(records[start : start + size]))
        for split, records in by_split.items()
        if packing.split in ("all", split)
        for number, start in enumerate(range(0, len(records), size))
    ]


def _claim(folder: Folder, packing: Packing, choice: Choice, plans: list[Plan], tables: Iterable[str]) -> None:
    """Make the folder this packing's, or go on with it: leftovers of a killed run and of a larger set are removed.

    Raises:
        ConfigError: it holds shards of other options, or files of these names that no pack.json tells of.
    """
    names = [plan.name for plan in plans]
    known = set(names)
    options = _options(packing, choice)
    content = folder.read(PACK)
    if content is None:
        ours = (*names, FINDINGS, CLASSES, *tables)
        found = next((name for name in ours if folder.fs.exists(folder.path(name))), None)
        if found is not None:
            raise ConfigError(f"--to: {folder.url!r} holds {found}, but no {PACK}: choose another folder")
    else:
        before = _parsed(folder, content)
        if before["options"] != options:
            then = {key: value for key, value in before["options"].items() if options.get(key) != value}
            now = {key: options.get(key) for key in then}
            raise ConfigError(f"--to: {folder.url!r} was packed with {then}, now {now}: choose another folder")
        known |= {str(shard["name"]) for shard in before["shards"]}
        for name in known - set(names):
            if Path(name).name == name and name.endswith(WRITERS[packing.form].suffix):
                folder.remove(name)
                folder.remove(f"{DONE}/{name}.json")
    _remove_drafts(folder, known)
    running = {"status": "running", "options": options, "shards": [{"name": name} for name in names]}
    folder.write(PACK, _json(running))


def _remove_drafts(folder: Folder, names: Iterable[str]) -> None:
    """Remove what killed writers of these files have left."""
    for name in names if folder.local else ():
        # `whole_file` has put eight digits between.
        for draft in Path(folder.root).glob(f"{glob.escape(name)}.{'[0-9a-f]' * 8}{DRAFT}"):
            draft.unlink(missing_ok=True)


def _options(packing: Packing, choice: Choice) -> dict[str, Any]:
    """What the shards' contents depend on beside the records."""
    return {
        "format": packing.format,
        "as": packing.form,
        "split": packing.split,
        "label": choice.label,
        "task": choice.task,
        "rows_per_shard": packing.rows_per_shard,
        "layout": LAYOUT,
    }


def _parsed(folder: Folder, content: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(content)
        return {"options": dict(tree["options"]), "shards": [{"name": str(s["name"])} for s in tree["shards"]]}
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder.path(PACK)} cannot be read ({brief(error)}): choose another folder") from None


def _finished(folder: Folder, plan: Plan) -> Shard | None:
    """The note of a shard that is there as a whole, made of the same records."""
    content = folder.read(_note(plan))
    if content is None:
        return None
    try:
        shard = Shard.model_validate_json(content)
    except ValidationError:
        return None
    path = folder.path(plan.name)
    whole = folder.fs.exists(path) and folder.fs.size(path) == shard.bytes
    return shard if whole and shard.records == plan.fingerprint else None


def _note(plan: Plan) -> str:
    return f"{DONE}/{plan.name}.json"


def _run(packing: Packing, left: list[Plan], kept: list[Shard], executor: Executor) -> Iterator[Shard]:
    """Shards as they get done, as many at a time as there are CPUs."""
    images = sum(shard.images for shard in kept)
    packing = replace(packing, source=os.path.abspath(os.path.expanduser(packing.source)), to=Folder(packing.to).url)
    progress = Progress(images + sum(len(plan.records) for plan in left), images, 0)
    shards = executor.map(partial(_written, packing), left, max_local=0)
    with ProgressBar(progress, "packing") as bar:
        for plan, shard in zip(left, shards, strict=True):
            progress = progress.advanced(len(plan.records), len(plan.records) - shard.images)
            bar.show(progress)
            yield shard


def _written(packing: Packing, plan: Plan) -> Shard:
    """The shard of a plan. Raises ExportError where it cannot be written."""
    try:
        return write_shard(packing, plan)
    except Exception as error:
        raise ExportError(
            f"{packing.to}/{plan.name} cannot be written: {brief(error)}; mend that and run again, what is done is kept"
        ) from None


def _finish(
    folder: Folder, packing: Packing, choice: Choice, listing: Listing, shards: list[Shard], findings: list[Finding]
) -> None:
    """Write what belongs to all shards together, pack.json last."""
    # Again: the processes of a killed run may have begun to write since.
    _remove_drafts(folder, (shard.name for shard in shards))
    folder.write(FINDINGS, "".join(f"{finding}\n" for finding in findings).encode())
    if listing.classes:
        folder.write(CLASSES, "".join(f"{name}\n" for name in listing.classes).encode())
    for name, content in listing.tables.items():
        folder.write(name, _json(content))
    whole = {
        "status": "complete",
        "options": _options(packing, choice),
        "classes": len(listing.classes),
        "findings": dict(Counter(finding.kind for finding in findings)),
        "shards": [shard.model_dump(exclude={"findings"}) for shard in shards],
        "version": __version__,
    }
    folder.write(PACK, _json(whole))


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()
