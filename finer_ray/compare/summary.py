"""Summary: what the lines of a comparison say together, each mean with its interval."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.compare.images import MEASURES
from finer_ray.compare.joining import Joined
from finer_ray.compare.words import STAYS, drift_name, map_words, move_words
from finer_ray.errors import ExportError
from finer_ray.metrics.statistics import bootstrap_interval
from finer_ray.metrics.table import REPORTED


@dataclass(frozen=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval.

    Attributes:
        count: of the images that have a value.
        mean: over these; NaN where there is none.
        low, high: the interval; NaN for fewer than two images.
    """

    count: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "Estimate":
        known = values[np.isfinite(values)]
        mean = float(known.mean()) if len(known) else math.nan
        return cls(len(known), mean, *bootstrap_interval(known))

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


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
        failed: images that A has explained and B has among its failures.
        flipped: images of both whose predicted class is another.
        maps, metrics: of the images in both.
        drift: lines of `finer_ray.compare.drift.DRIFT`.
        notes: what a reader must know, a sentence each.
    """

    joined: int
    only_a: int
    only_b: int
    failed: int
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

        Of images that A has explained and B has tried: the share that failed. Of images in both: the share of flipped
        predictions; for each map 1 less the mean correlation; of each metric that is not `Metric.skewed` the size of
        the mean difference. Where `apart` is true: for each line of `drift` the PSI. A difference or a PSI that may be
        chance counts as 0.
        """
        found: dict[str, float] = {}
        if tried := self.joined + self.failed:
            found["share of images that fail in B alone"] = self.failed / tried
        if self.joined:
            found["share of predictions flipped"] = self.flipped / self.joined
            found |= {
                f"1 - correlation of {change.name}": 1 - change.correlation.mean
                for change in self.maps
                if change.correlation.count
            }
            found |= {
                f"change of {change.metric} of {change.map}": abs(change.difference.mean) * change.difference.sure
                for change in self.metrics
                if not REPORTED[change.metric].skewed
            }
        if self.apart:
            found |= {f"PSI of {drift_name(line)}": line["psi"] * line["drifted"] for line in self.drift}
        return found

    def over(self, limit: float) -> dict[str, float]:
        """Those of `held` that are larger than a limit.

        Raises:
            ExportError: there are none at all, so that nothing would be found whatever had changed.
        """
        held = self.held
        if not held:
            raise ExportError("no image is in both, and A has fewer than 10 or B none: nothing can be held to a limit")
        return {what: value for what, value in held.items() if value > limit}

    def to_json(self) -> dict[str, Any]:
        """All figures, for machines; null in place of NaN."""
        figures: dict[str, Any] = _without_nan(asdict(self) | {"held": self.held})
        return figures


def summarise(changes: pa.Table, drift: pa.Table, both: Joined, maps: list[str], notes: list[str]) -> Summary:
    """The summary of a comparison.

    Args:
        changes: with the schema CHANGES.
        drift: with the schema DRIFT.
        both: the images in both.
        maps: names of the maps in both.
        notes: see `Summary`.
    """
    by_map = {name: changes.filter(pc.equal(changes["map"], name)) for name in maps if len(both)}
    images = next(iter(by_map.values()), changes)
    return Summary(
        joined=len(both),
        only_a=both.only_a,
        only_b=both.only_b,
        failed=both.failed,
        flipped=pc.sum(images["flipped"]).as_py() or 0,
        maps=[_map_change(name, lines) for name, lines in by_map.items()],
        metrics=[change for name, lines in by_map.items() for change in _metric_changes(name, lines)],
        drift=drift.to_pylist(),
        notes=notes,
    )


def _map_change(name: str, lines: pa.Table) -> MapChange:
    values = {key: _numbers(lines, key) for key in MEASURES}
    same = lines["same_target"].to_numpy()
    found = {key: Estimate.of(known) for key, known in values.items()}
    words, x, y = map_words(found["correlation"].mean), found["shift_x"], found["shift_y"]
    # Of shifts that go every which way the mean is none.
    if math.hypot(x.mean, y.mean) >= STAYS and (x.sure or y.sure):
        words += f"; on average {move_words(x.mean, y.mean)}"
    return MapChange(name, same_target=Estimate.of(values["correlation"][same]), verdict=words, **found)


def _metric_changes(name: str, lines: pa.Table) -> Iterator[MetricChange]:
    for key, metric in REPORTED.items():
        difference = Estimate.of(_numbers(lines, key))
        if not difference.count:
            continue
        better = (difference.mean > 0) == metric.higher_is_better if difference.sure else None
        same = "the same" if difference.low == difference.high == 0 else "no sure difference"
        yield MetricChange(name, key, difference, better, {None: same, True: "better", False: "worse"}[better])


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table[name].to_numpy().astype(np.float64)
    return values


def _without_nan(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_nan(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
