"""Best map: which map stands for an export, the one that measures best, and by which metric that is."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from finer_ray.metrics.table import JUDGES
from finer_ray.report.paper_table import baselines
from finer_ray.store.reading import Export


@dataclass(frozen=True)
class BestMap:
    """The map that stands for an export.

    Attributes:
        name: of the map; None where the export has no maps.
        metric: the metric of `JUDGES` that chose it; None where no image has one.
        means: by map, the mean of that metric over all images that have it; empty without a metric.
    """

    name: str | None
    metric: str | None
    means: dict[str, float]


_FOUND: WeakKeyDictionary[Export, BestMap] = WeakKeyDictionary()


def best_map(export: Export) -> BestMap:
    """The map with the best mean of the first metric that an export has, in the order of `JUDGES`.

    Of equals a finer map stands before its baseline. Without a metric it is the first finer map that has a baseline, or
    the first map. It is computed once per open export.

    >>> from finer_ray.store.reading import open_export
    >>> best_map(open_export("demo_export")).metric
    'localisation'
    """
    if export not in _FOUND:
        _FOUND[export] = _chosen(export)
    return _FOUND[export]


def _chosen(export: Export) -> BestMap:
    # A dictionary keeps the order: finer maps first.
    order = list(dict.fromkeys([*baselines(export), *export.manifest.layout.maps]))
    for name, metric in JUDGES.items():
        means = _means(export, name)
        if means:
            sign = 1 if metric.higher_is_better else -1
            best = max((known for known in order if known in means), key=lambda known: sign * means[known])
            return BestMap(best, name, means)
    return BestMap(order[0] if order else None, None, {})


def _means(export: Export, metric: str) -> dict[str, float]:
    """By map, a metric's mean; without maps that have none."""
    # Arrow has no mean of yes or no, and counts NaN as a value.
    values = export.metrics[metric].cast("double")
    known = pa.table({"map": export.metrics["map"], "value": values}).filter(pc.is_finite(values))
    return {
        line["map"]: line["value_mean"] for line in known.group_by("map").aggregate([("value", "mean")]).to_pylist()
    }
