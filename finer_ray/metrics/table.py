"""The table of metrics: a new one is a module that defines a `Metric`, and its line here, in the order of columns."""

from finer_ray.metrics.average_drop import AVERAGE_DROP, INCREASE
from finer_ray.metrics.deletion import DELETION_AUC, DELETION_CURVE, INSERTION_AUC, INSERTION_CURVE
from finer_ray.metrics.drops import DROPS
from finer_ray.metrics.iou import IOU
from finer_ray.metrics.localisation import LOCALISATION, POINTING_HIT
from finer_ray.metrics.metric import Metric, Switch
from finer_ray.metrics.rank_accuracy import RANK_ACCURACY
from finer_ray.metrics.relevance_gain import SRG
from finer_ray.metrics.road import ROAD
from finer_ray.metrics.sparsity import SPARSITY
from finer_ray.plugins import table

METRICS: dict[str, Metric] = table(
    Metric,
    (
        LOCALISATION,
        POINTING_HIT,
        RANK_ACCURACY,
        IOU,
        DELETION_AUC,
        INSERTION_AUC,
        DELETION_CURVE,
        INSERTION_CURVE,
        *DROPS,
        *SRG,
        AVERAGE_DROP,
        INCREASE,
        ROAD,
        SPARSITY,
    ),
)
SWITCHES: dict[str, Switch] = {metric.switch.name: metric.switch for metric in METRICS.values()}
# Those that are averaged, by class and over all.
AVERAGED: dict[str, Metric] = {name: metric for name, metric in METRICS.items() if metric.heading is not None}
# The same in the order of the paper's Tab. 4: what the model says first.
REPORTED: dict[str, Metric] = dict(sorted(AVERAGED.items(), key=lambda item: item[1].of_region))
# The same in the order in which they judge an image's map.
JUDGES: dict[str, Metric] = dict(sorted(AVERAGED.items(), key=lambda item: item[1].rank))
OF_REGION: dict[str, Metric] = {name: metric for name, metric in AVERAGED.items() if metric.of_region}
CURVES: dict[str, Metric] = {name: metric for name, metric in METRICS.items() if metric.axes == ("step",)}
