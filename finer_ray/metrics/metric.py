"""What a metric is: one object, defined in a module and listed in `finer_ray.metrics.table`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from finer_ray.arrays import Array
from finer_ray.errors import ConfigError
from finer_ray.saliency.registration import Registration

# Columns of the table `metrics` that are none.
TAKEN = ("row", "class", "map", "region")


@dataclass(frozen=True)
class Switch:
    """A key of the config's section `metrics`, which asks for one metric or several.

    Attributes:
        name: of the key.
        description: for the config's schema.
        default: whether it is on where the config says nothing.
        always: whether the fingerprint of a config names it while it is off. Those of the first version are; of any
            other it must not hear, so that exports from before there was one can go on.
    """

    name: str
    description: str
    default: bool = False
    always: bool = False


@dataclass(frozen=True)
class MapContext(Generic[Array]):
    """Maps and the regions that images are annotated with: tensors in a job, arrays where an export is read.

    Attributes:
        maps: (B, M, h, w) float, non-negative.
        region: (B, H, W) bool, the box or mask in the model input's geometry, empty where an image has none; (B, 0, 0)
            where no image of the batch has one, and then nothing that is `Metric.of_region` is computed.
        registration: where in the input's pixels the maps' cells have their centres; None: stretched. `draw` of
            `finer_ray.saliency.registration` brings maps to pixels.
    """

    maps: Array
    region: Array
    registration: Registration | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Masking:
    """Images that lose pixels, as a metric asks for them. Those of all metrics of a job are made, and run, together.

    Attributes:
        counts: from metrics.steps and the number of an image's pixels to how many are gone, S of them in rising order.
        first: which pixels go first: the most or the least salient, or those that a random map has as the most.
        fill: what takes their place: the config's `metrics.fill` or `metrics.insert_into`, or what the pixels that are
            left make likely (`finer_ray.metrics.imputation`).
    """

    counts: Callable[[int, int], Sequence[int]]
    first: Literal["most", "least", "random"] = "most"
    fill: Literal["fill", "insert_into", "neighbours"] = "fill"


@dataclass(frozen=True)
class Metric:
    """A metric of every image and map: a column of the table `metrics`.

    Attributes:
        name: of the column.
        words: what it is called in the report.
        switch: by which a config asks for it.
        compute: from a batch to (B, M), with `axes` behind; NaN where the metric does not apply, and, whatever is
            computed, null in the table where a map is zero everywhere. It is given a `finer_ray.metrics.context.
            MetricContext`, or where `of_region` is set perhaps a `MapContext` alone.
        heading: in tables, short; None for what is kept as it is, neither averaged nor shown.
        higher_is_better: the direction.
        rank: among metrics by which an image's map may be judged; the lowest that an export has is taken.
        skewed: whether a few images may outweigh all others, so that tables have the median beside the mean.
        of_region: whether it needs regions, and nothing else but maps. It is then also swept over gamma, without torch:
            `compute` takes arrays of NumPy as well as tensors (`finer_ray.arrays`), and returns what it was given.
        axes: what stands behind (B, M): `step`, metrics.steps + 1 of them, or `reference`, K of them.
        dtype: in the table; a bool is computed as a float: above 0 is true.
        x_title: of a curve (`axes` is ("step",)), for its chart.
        masks: all that `compute` asks the context for, so that what metrics have in common is run once.
    """

    name: str
    words: str
    switch: Switch
    compute: Callable[[Any], Any]
    heading: str | None = None
    higher_is_better: bool = True
    rank: int = 100
    skewed: bool = False
    of_region: bool = False
    axes: tuple[Literal["step", "reference"], ...] = ()
    dtype: Literal["float32", "bool"] = "float32"
    x_title: str = ""
    masks: tuple[Masking, ...] = ()

    @property
    def title(self) -> str:
        """The heading, with an arrow that says which way is better."""
        return f"{self.heading} {'↑' if self.higher_is_better else '↓'}"

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name in TAKEN:
            raise ConfigError(
                f"a metric cannot be called {self.name!r}: letters, digits and _, and none of {', '.join(TAKEN)}"
            )
