"""Status: how far an export is, and whether anybody is at work on it."""

from dataclasses import dataclass, field
from typing import Literal

from finer_ray.store.failures import (
    common_reasons,
    over_limit,
    read_failures,
    reasons_line,
    too_many,
    unpublished_parts,
)
from finer_ray.store.lease import Holder, current
from finer_ray.store.manifest import EXPORT, PLAN, pending, read_manifest
from finer_ray.store.parts import committed, failure_count
from finer_ray.store.storage import Folder

State = Literal["none", "planning", "running", "stopped", "complete"]
# Counting failures reads a small file for each unit; beyond so many it is left to the run itself.
COUNTED = 2000


@dataclass(frozen=True)
class Status:
    """An export at a moment.

    Attributes:
        state: none (nothing is there), planning or running (somebody is at work), stopped (unfinished, and nobody is),
            complete.
        images: done, failures included, published or committed.
        total: that the shards hold; None before they are counted.
        failures: among those done; None where there are too many units to count.
        units, units_done: of the plan, or of the finished export.
        published: images and failures that readers see.
        revision: how many times it was published before; None before the first.
        holder: who is at work, or was and could not say that it ended.
        max_failures: share of all samples that the job allows to fail; None where there is no job.
        reasons: the commonest ones of the failures, each with how many samples it has.
        over_limit: what the job said that stopped for its failures, '' where it did not.
    """

    state: State
    images: int
    total: int | None
    failures: int | None
    units: int
    units_done: int
    published: dict[str, int]
    revision: int | None
    holder: Holder | None
    max_failures: float | None = None
    reasons: list[tuple[str, int]] = field(default_factory=list)
    over_limit: str = ""

    @property
    def seconds_left(self) -> float | None:
        """What the run at work expects; None where there is none, or it cannot tell yet."""
        if self.holder is None or not self.holder.alive or self.total is None:
            return None
        rate = self.holder.progress.get("rate", 0.0)
        return (self.total - self.images) / rate if rate > 0 else None


def status_of(url: str) -> Status:
    """How far an export is; nothing is changed, also not while a run is at work.

    Raises:
        ExportError: there is a manifest, and it is none of ours. StoreError: the store does not answer.

    >>> status_of("demo_export").state
    'complete'
    """
    folder = Folder(url)
    published, holder = read_manifest(folder, EXPORT), current(folder)
    plan = pending(read_manifest(folder, PLAN), published)
    alive = holder is not None and holder.alive
    counts = {} if published is None else published.counts
    revision = None if published is None else published.revision
    now = plan or published
    if now is None:
        return Status("planning" if alive else "none", 0, None, None, 0, 0, counts, revision, holder)
    sizes = {unit.number: unit.count for unit in now.units()}
    before = set() if published is None else {unit.number for unit in published.units()}
    unpublished = (committed(folder) & sizes.keys()) - before
    done = unpublished | (before & sizes.keys())
    failures = None
    if len(unpublished) <= COUNTED:
        failures = counts.get("failures", 0) + failure_count(folder, unpublished)
    state: State = "running" if alive else "complete" if plan is None else "stopped"
    reasons: list[tuple[str, int]] = []
    if failures != 0:
        reasons = common_reasons(read_failures(folder, published, unpublished_parts(folder, published, plan)))
    limit = now.config["input"]["max_failures"]
    stopped = state == "stopped" and failures is not None and too_many(failures, now.images(), limit)
    return Status(
        state=state,
        images=sum(sizes[number] for number in done),
        total=now.images(),
        failures=failures,
        units=len(sizes),
        units_done=len(done),
        published=counts,
        revision=revision,
        holder=holder,
        max_failures=limit,
        reasons=reasons,
        over_limit=over_limit(folder, failures or 0, now.images(), limit, reasons_line(reasons)) if stopped else "",
    )
