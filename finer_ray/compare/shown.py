"""Shown: a comparison as tables for the screen."""

from collections.abc import Iterator

from rich.table import Table

from finer_ray.compare.summary import Estimate, Summary, drift_name, drift_words
from finer_ray.metrics.table import METRICS


def shown(summary: Summary) -> Iterator[Table]:
    """Maps, metrics and drift: what there is of them."""
    if summary.maps:
        yield _maps(summary)
    if summary.metrics:
        yield _metrics(summary)
    if summary.drift:
        yield _drift(summary)


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
    for heading in ("map", "difference", ""):
        table.add_column(heading, justify="right" if heading == "difference" else "left", no_wrap=True)
    for change in summary.metrics:
        table.add_row(METRICS[change.metric].title, change.map, _written(change.difference, "+.3f"), change.verdict)
    return table


def _drift(summary: Summary) -> Table:
    table = _table("distributions, B against A: population stability index over A's deciles")
    for heading in ("PSI", "chance", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for line in summary.drift:
        table.add_row(drift_name(line), f"{line['psi']:.3f}", f"{line['chance']:.3f}", drift_words(line))
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    return table


def _written(found: Estimate, form: str = ".3f") -> str:
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]" if found.count else "-"
