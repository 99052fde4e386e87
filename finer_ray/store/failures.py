"""Failures: the commonest reasons, and whether there are more than a job allows."""

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from finer_ray.store.manifest import EXPORT, PLAN, Manifest, pending, read_manifest
from finer_ray.store.parts import committed, read_tables
from finer_ray.store.storage import Folder
from finer_ray.store.tables import FAILURES

MAX_REASONS = 3
# Files of failures that are read for a summary: each costs a request where the export lies on an object store.
MAX_FILES = 300
MAX_LINES = 1_000_000
MAX_EXAMPLE = 200
ALL = '"SELECT key, stage, error FROM failures"'
# What differs from image to image: names in quotes, addresses, numbers; and its own key, unless that is so short that
# it is a part of other words.
_VARYING = re.compile(r"""\bb'[^']*'|\B'[^']*'|"[^"]*"|0[xX][0-9a-fA-F]+|[0-9]+""")
MIN_KEY = 4
COLUMNS = ("stage", "error", "key", "shard")


def grouped(failures: pa.Table) -> list[dict[str, Any]]:
    """Failures by stage and reason, the most frequent first.

    Args:
        failures: of the schema FAILURES.

    Returns:
        For each reason stage, reason, count, and as an example the error, key and shard of one of them.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for stage, error, key, shard in zip(*(failures[name].to_pylist() for name in COLUMNS), strict=True):
        reason = _VARYING.sub("…", error.replace(key, "…") if key and len(key) >= MIN_KEY else error)
        line = found.setdefault((stage, reason), {"stage": stage, "reason": reason, "count": 0})
        line["count"] += 1
        # The first by the alphabet, so that the order of lines does not matter.
        if line["count"] == 1 or error < line["example"]:
            line |= {"example": error, "key": key or "", "shard": shard}
    return sorted(found.values(), key=lambda line: (-line["count"], line["stage"], line["reason"]))


def common_reasons(failures: pa.Table) -> list[tuple[str, int]]:
    """The most frequent reasons, each as the stage and error of one image, and how many images have it.

    Args:
        failures: of the schema FAILURES.
    """
    return [(f"{line['stage']}: {_short(line['example'])}", line["count"]) for line in grouped(failures)[:MAX_REASONS]]


def unpublished_parts(folder: Folder, published: Manifest | None, plan: Manifest | None) -> list[str]:
    """Names of the part files, the same below `parts/` for each table, of units that are committed and not published.

    Args:
        folder: the export's.
        published, plan: its export.json and plan.json, or None.
    """
    known = set() if published is None else {unit.number for unit in published.units()}
    planned = set() if plan is None else {unit.number for unit in plan.units()}
    return [f"{unit:08d}.parquet" for unit in sorted(committed(folder) & planned - known)]


def read_failures(folder: Folder, published: Manifest | None, parts: Iterable[str]) -> pa.Table:
    """Failures of an export's tables, then of parts: of at most MAX_FILES files, and some more than MAX_LINES lines.

    Args:
        folder: the export's.
        published: its export.json, or None.
        parts: names by `unpublished_parts`.
    """
    files = [] if published is None else published.tables.get("failures", [])
    found = FAILURES.empty_table()
    for file in [*files, *(f"parts/failures/{name}" for name in parts)][:MAX_FILES]:
        # A run that publishes in this moment removes the parts that have become tables.
        with suppress(FileNotFoundError):
            found = pa.concat_tables([found, read_tables(folder, [file], FAILURES)])
        if found.num_rows >= MAX_LINES:
            break
    return found


def failure_summary(folder: Folder) -> str:
    """The commonest reasons of the failures so far, published or committed, in one line; '' where there are none."""
    published = read_manifest(folder, EXPORT)
    plan = pending(read_manifest(folder, PLAN), published)
    return reasons_line(common_reasons(read_failures(folder, published, unpublished_parts(folder, published, plan))))


def reasons_line(reasons: list[tuple[str, int]]) -> str:
    """Reasons and their counts, for a message."""
    return "; ".join(f"{count} x {reason}" for reason, count in reasons)


def too_many(failures: int, samples: int, share: float) -> bool:
    """Whether a job stops.

    Args:
        failures: so far.
        samples: of the whole export.
        share: `input.max_failures`.
    """
    return failures > share * samples


def over_limit(folder: Folder, failures: int, samples: int, share: float, summary: str | None = None) -> str:
    """What a job that stops says, and whoever asks about it after; arguments as of `too_many`.

    Args:
        folder: the export's.
        summary: by `failure_summary`; read from the folder when None.
    """
    summary = failure_summary(folder) if summary is None else summary
    label = ", or do without labels (input.fields.label: '', and a saliency.target other than label)"
    label = label if "label: " in summary else ""
    return (
        f"{failures} of {samples} samples failed so far, more than input.max_failures {share:g} allows "
        f"({int(share * samples)}); what is done is kept. Commonest: {summary or 'unknown'}. Mend the input, or raise "
        f"input.max_failures{label}; until then the same command ends the same way. "
        f"All of them: finer-ray query {folder.url} {ALL}"
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_EXAMPLE else f"{line[:MAX_EXAMPLE]}..."
