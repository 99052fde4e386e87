"""The status of an export, in words."""

import time

from finer_ray.store.failures import reasons_line
from finer_ray.store.status import Status


def status_lines(status: Status) -> list[str]:
    """What `finer-ray status` says: the state, what is done, who is at work, what readers see."""
    if status.state == "none":
        return ["none: there is no export"]
    lines = [status.state if status.total is None else f"{status.state}: {_progress(status)}"]
    if (holder := status.holder) is not None:
        ago = f"{max(0.0, time.time() - holder.renewed):.0f} s ago"
        what = "at work" if holder.alive else "ended without a word"
        lines.append(f"  process {holder.pid} on {holder.host} {what}, last sign of life {ago}{_rate(status)}")
    if status.revision is not None:
        counts = status.published
        lines.append(f"  readers see {counts['images']} images and {counts['failures']} failures")
    if status.over_limit:
        lines.append(f"  {status.over_limit}")
    elif status.reasons:
        lines.append(f"  commonest failures: {reasons_line(status.reasons)}")
    if status.state == "stopped" and not status.over_limit:
        lines.append("  run the same command again, and it goes on where it stopped")
    return lines


def _progress(status: Status) -> str:
    failures = "" if status.failures is None else f", {status.failures} failures"
    share = status.images / status.total if status.total else 1.0
    units = f"units {status.units_done} of {status.units}"
    return f"{status.images} of {status.total} images ({share:.0%}{failures}), {units}"


def _rate(status: Status) -> str:
    rate = 0.0 if status.holder is None else status.holder.progress.get("rate", 0.0)
    left = status.seconds_left
    return f", {rate:.1f} images/s, {left:.0f} s left" if rate and left is not None else ""
