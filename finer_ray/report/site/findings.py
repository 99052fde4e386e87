"""Findings: what the metrics say of an export's maps, in a sentence each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finer_ray.metrics.metric import Metric

TITLES = {"gradcam": "plain Grad-CAM", "finer_gradcam": "Finer-CAM"}
# By metric: what a map does, after its name; `{}` is the value.
SAID = {
    "localisation": "puts {} of its light on the annotated object",
    "pointing_hit": "has its brightest point on the annotated object in {} of the images",
}


@dataclass(frozen=True)
class Finding:
    """One metric of a finer map beside its baseline, in words.

    Attributes:
        text: what the finer map has, and what its baseline has; a sentence without its end.
        verdict: which of them is better, and by how much.
        interval: of the difference, 95 %.
        better: whether the finer map is; None where the difference may be chance.
    """

    text: str
    verdict: str
    interval: str
    better: bool | None


def findings(table: list[dict[str, Any]], maps: Sequence[str], finer: str, baseline: str) -> list[Finding]:
    """A finding for each metric of `SAID`, or, without any, for the metric by which maps are judged (`Metric.rank`).

    Args:
        table: of `overview.metric_table`.
        maps: names, in the order of the table's cells.
        finer, baseline: the maps that are compared.
    """
    known = [line for line in table if line["cells"][maps.index(finer)]["difference"] is not None]
    lines = [line for line in known if line["metric"].name in SAID] or sorted(
        known, key=lambda line: line["metric"].rank
    )[:1]
    return [
        _finding(line["metric"], line["cells"][maps.index(finer)], line["cells"][maps.index(baseline)], finer, baseline)
        for line in lines
    ]


def map_title(name: str) -> str:
    """What a sentence calls a map: the names that people know, or its own."""
    return TITLES.get(name, name)


def _finding(metric: Metric, mine: dict[str, Any], other: dict[str, Any], finer: str, baseline: str) -> Finding:
    share = metric.name in SAID
    write: Callable[[float], str] = _percent if share else _plain
    said = SAID.get(
        metric.name, f"has {metric.words} {{}} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    )
    text = f"{map_title(finer)} {said.format(write(mine['mean']))}; {map_title(baseline)} {write(other['mean'])}"
    scale, digits, unit = (100, 1, " points") if share else (1, 3, "")
    low, high = (_signed(scale * mine[name], digits) for name in ("difference_low", "difference_high"))
    by = f"by {abs(scale * mine['difference']):.{digits}f}{unit}"
    verdict = {None: "no sure difference", True: f"better {by}", False: f"worse {by}"}[mine["better"]]
    return Finding(text, verdict, f"[{low}, {high}]", mine["better"])


def _percent(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"
