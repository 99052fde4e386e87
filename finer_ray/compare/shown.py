"""Shown: a comparison as tables for the screen."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from finer_ray.compare.summary import Estimate, MetricChange, Summary
from finer_ray.compare.words import drift_name, drift_words
from finer_ray.metrics.table import METRICS


def shown(summary: Summary) -> Iterator[Table]:
    """Maps, metrics and drift: what there is of them; of drift that chance explains only where it counts."""
    if summary.maps:
        yield _maps(summary)
    if summary.metrics:
        yield _metrics(summary)
    drift = [line for line in summary.drift if summary.apart or line["drifted"]]
    if drift:
        yield _drift(drift)


def headline(summary: Summary) -> str:
    """How many images are in both, and how many predictions flipped."""
    alone = f"{summary.only_a} only in A, {summary.only_b} only in B"
    if not summary.joined:
        return f"0 images in both; {alone}"
    share = summary.flipped / summary.joined
    return f"{summary.joined} images in both; {alone}; {summary.flipped} predictions flipped ({share:.1%})"


def _maps(summary: Summary) -> Table:
    table = _table("maps, B against A, image by image [95 % bootstrap]")
    for heading in ("correlation", "top 5 % IoU", "centre moves", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for change in summary.maps:
        figures = (change.correlation, change.top_overlap, change.shift)
        table.add_row(change.name, *map(_written, figures), change.verdict)
    return table


def _metrics(summary: Summary) -> Table:
    table = _table("metrics, B less A, image by image [95 % paired bootstrap]")
    known = {(change.metric, change.map): change for change in summary.metrics}
    maps = [change.name for change in summary.maps]
    for name in maps:
        table.add_column(name, justify="right", no_wrap=True)
    for metric in dict.fromkeys(change.metric for change in summary.metrics):
        cells = (known.get((metric, name)) for name in maps)
        table.add_row(METRICS[metric].title, *("-" if cell is None else _metric(cell) for cell in cells))
    return table


def _metric(change: MetricChange) -> str:
    written = _written(change.difference, "+.3f")
    return written if change.better is None else f"{change.verdict} {written}"


def _drift(lines: list[dict[str, Any]]) -> Table:
    table = _table("distributions, B against A: population stability index over A's deciles")
    for heading in ("PSI", "chance", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for line in lines:
        table.add_row(drift_name(line), f"{line['psi']:.3f}", f"{line['chance']:.3f}", drift_words(line))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    return table


def _written(found: Estimate, form: str = ".3f") -> str:
    if not found.count:
        return "-"
    # One image has no interval.
    return f"{found.mean:{form}}" + (f" [{found.low:{form}}, {found.high:{form}}]" if found.count > 1 else "")
