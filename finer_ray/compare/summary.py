"""Summary: what the lines of a comparison say together, each figure with its interval and in words."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.compare.joining import Joined
from finer_ray.metrics.statistics import bootstrap_interval
from finer_ray.metrics.table import REPORTED

# Correlations from which on maps are called so.
WORDS = ((0.99, "the same"), (0.9, "nearly the same"), (0.7, "alike"), (0.4, "partly other places"))
DIRECTIONS = ("right", "lower right", "bottom", "lower left", "left", "upper left", "top", "upper right")
# Share of the diagonal below which a centre is said to stay.
STAYS = 0.02
# PSIs from which on drift is called so, by custom.
DRIFTS = ((0.25, "large"), (0.1, "moderate"), (0.0, "small"))


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval; NaN where no image has a value."""

    count: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Estimate":
        known = values[np.isfinite(values)]
        mean = float(known.mean()) if len(known) else math.nan
        return cls(len(known), mean, *bootstrap_interval(known))


@dataclass(frozen=True)
class MapChange:
    """How one map differs between two exports, image by image.

    Attributes:
        name: of the map.
        correlation, top_overlap, shift: see `finer_ray.compare.images.CHANGES`.
        same_target: the correlation, of images that both explain for the same class.
        shift_x, shift_y: of the centre to the right and down, as shares of the diagonal.
        verdict: in words.
    """

    name: str
    correlation: Estimate
    same_target: Estimate
    top_overlap: Estimate
    shift: Estimate
    shift_x: Estimate
    shift_y: Estimate
    verdict: str


@dataclass(frozen=True)
class MetricChange:
    """How a metric of one map differs, B less A, image by image.

    Attributes:
        map: its name.
        metric: of `REPORTED`.
        difference: mean over the images that have it in both.
        better: whether B is better; None where the difference may be chance.
        verdict: in words.
    """

    map: str
    metric: str
    difference: Estimate
    better: bool | None
    verdict: str


@dataclass(frozen=True)
class Summary:
    """What changed between two exports.

    Attributes:
        joined, only_a, only_b: images in both, and in one alone.
        flipped: images of both whose predicted class is another.
        maps, metrics: of the images in both.
        drift: lines of `finer_ray.compare.drift.DRIFT`.
        notes: what a reader must know, a sentence each.
    """

    joined: int
    only_a: int
    only_b: int
    flipped: int
    maps: list[MapChange]
    metrics: list[MetricChange]
    drift: list[dict[str, Any]]
    notes: list[str]

    @property
    def apart(self) -> bool:
        """Whether less than half of either export is in both, so that what is joined does not stand for it."""
        return self.joined < max(self.only_a, self.only_b)

    @property
    def held(self) -> dict[str, float]:
        """The figures that a schedule's limit is held against, by what they are; each is 0 where nothing changed.

        Of images in both: the share of flipped predictions, and for each map 1 less the mean correlation. Where `apart`
        is true: for each line of `drift` the PSI, which counts as 0 where it may be chance.
        """
        found = {}
        if self.joined:
            found["share of predictions flipped"] = self.flipped / self.joined
            found |= {
                f"1 - correlation of {change.name}": 1 - change.correlation.mean
                for change in self.maps
                if change.correlation.count
            }
        if self.apart:
            found |= {f"PSI of {drift_name(line)}": line["psi"] if line["drifted"] else 0.0 for line in self.drift}
        return found

    def over(self, limit: float) -> dict[str, float]:
        """Those of `held` that are larger than a limit."""
        return {what: value for what, value in self.held.items() if value > limit}

    def to_json(self) -> dict[str, Any]:
        """All figures, for machines; null in place of NaN."""
        figures: dict[str, Any] = _without_nan(asdict(self) | {"held": self.held})
        return figures


def summarise(changes: pa.Table, drift: pa.Table, both: Joined, maps: list[str]) -> Summary:
    """The summary of a comparison.

    Args:
        changes: with the schema CHANGES.
        drift: with the schema DRIFT.
        both: the images in both.
        maps: names of the maps in both.
    """
    images = changes.filter(pc.equal(changes["map"], maps[0])) if maps else changes
    by_map = {name: changes.filter(pc.equal(changes["map"], name)) for name in maps if len(both)}
    return Summary(
        joined=len(both),
        only_a=both.only_a,
        only_b=both.only_b,
        flipped=pc.sum(images["flipped"]).as_py() or 0,
        maps=[_map_change(name, lines) for name, lines in by_map.items()],
        metrics=[change for name, lines in by_map.items() for change in _metric_changes(name, lines)],
        drift=drift.to_pylist(),
        notes=list(_notes(both, maps)),
    )


def drift_name(line: dict[str, Any]) -> str:
    """What a line of drift is of."""
    return f"{line['name']} of {line['map']}" if line["map"] else f"{line['kind']}: {line['name']}"


def drift_words(line: dict[str, Any]) -> str:
    """A line of drift in words."""
    if not line["drifted"]:
        return "no more than chance"
    return f"{next(word for least, word in DRIFTS if line['psi'] >= least)} drift"


def towards(x: float, y: float) -> str:
    """Where a shift to the right and down leads: "upper left".

    >>> towards(1, 0), towards(-1, -1), towards(0, 1)
    ('right', 'upper left', 'bottom')
    """
    return DIRECTIONS[round(math.atan2(y, x) / (math.pi / 4)) % 8]


def map_words(correlation: float | None) -> str:
    """What a correlation says of two maps."""
    if correlation is None or math.isnan(correlation):
        return "not comparable: zero everywhere in both"
    return next((word for least, word in WORDS if correlation >= least), "other places")


def _map_change(name: str, lines: pa.Table) -> MapChange:
    values = {key: _numbers(lines, key) for key in ("correlation", "top_overlap", "shift", "shift_x", "shift_y")}
    same = lines["same_target"].to_numpy()
    found = {key: Estimate.of(known) for key, known in values.items()}
    words = map_words(found["correlation"].mean)
    x, y = found["shift_x"], found["shift_y"]
    # Of shifts that go every which way the mean is none.
    together = math.hypot(x.mean, y.mean)
    if together >= STAYS and any(axis.low > 0 or axis.high < 0 for axis in (x, y)):
        words += f"; its centre moves to the {towards(x.mean, y.mean)}, by {together:.0%} of the diagonal on average"
    return MapChange(name, same_target=Estimate.of(values["correlation"][same]), verdict=words, **found)


def _metric_changes(name: str, lines: pa.Table) -> Iterator[MetricChange]:
    for key, metric in REPORTED.items():
        difference = Estimate.of(_numbers(lines, key))
        if not difference.count:
            continue
        sure = difference.low > 0 or difference.high < 0
        better = (difference.mean > 0) == metric.higher_is_better if sure else None
        same = "the same" if difference.low == difference.high == 0 else "no sure difference"
        yield MetricChange(name, key, difference, better, {None: same, True: "better", False: "worse"}[better])


def _notes(both: Joined, maps: list[str]) -> Iterator[str]:
    if both.other_size:
        yield (
            f"{both.other_size} keys stand for photos of other sizes in B: these are other photos, and are not joined"
        )
    if both.other_files and len(both):
        yield (
            f"{both.other_files} of the shards that are joined by name hold other bytes in B than in A: where keys are "
            "the same but images are not, --drift compares distributions alone"
        )
    if len(both) and not maps:
        yield "the exports have no map of one name: maps and their metrics are not compared"
    if not len(both):
        yield "no image is in both: distributions are compared, not images"


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table[name].to_numpy().astype(np.float64)
    return values


def _without_nan(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_nan(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
