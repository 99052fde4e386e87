"""A draw of a job's images, in memory: their pixels, and the target and references that the job's model gives them."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.config.schema import Config
from finer_ray.errors import InputError
from finer_ray.models import Classifier
from finer_ray.pipeline.explaining import Explainer
from finer_ray.pipeline.planning import draft, make_plan
from finer_ray.pipeline.resources import own_resources
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.pipeline.unit_tables import from_column
from finer_ray.saliency.registration import Registration
from finer_ray.store.manifest import Manifest, Unit, entry_units
from finer_ray.store.storage import Folder

NOTED = ("shard", "index", "key")


@dataclass(frozen=True)
class Drawn:
    """Images that can be explained, in the order of their draw.

    Attributes:
        notes: where each is from: shard, index in it, key.
        pixels: (h, w, 3) uint8 each, as the model sees them.
        targets: (n,) int64, the class that is explained.
        references: (n, K) int64, what it is compared with; -1 means none.
        registration: of the job's maps, see `finer_ray.store.layout.Layout`.
        failures: of other images of the draw, why they could not be used.
    """

    notes: list[dict[str, Any]]
    pixels: list[NDArray[np.uint8]]
    targets: NDArray[np.int64]
    references: NDArray[np.int64]
    registration: Registration | None
    failures: list[str]


def draw_images(config: Config, classifier: Classifier, count: int, seed: int) -> Drawn:
    """Draw images of a job at random, all with the same chance; nothing is written.

    Args:
        config: of the job, for one target of an image; its maps and metrics are computed and not kept.
        classifier: of the job; is moved to its device.
        count: how many; fewer where there are not as many that can be used.
        seed: of the draw.

    Raises:
        InputError: no shards, or no image in them that can be used. StoreError: a store does not answer.
    """
    # Each image is a unit by itself, so that it is read alone.
    config = config.model_copy(update={"output": config.output.model_copy(update={"rows_per_unit": 1})})
    plan, _ = make_plan(config, draft(config, classifier), None, None, Folder("memory://draw"), map)
    loader = Loader(config.input, classifier.transform, region=False, retry_seconds=config.compute.retry_seconds)
    explainer = Explainer(classifier, config, plan.layout, own_resources(config.compute))
    units = _units(plan, np.random.default_rng(seed).permutation(plan.images()).tolist())
    good: list[tuple[pa.Table, pa.Table]] = []
    failures: list[str] = []
    left = count
    while left and (some := list(islice(units, left))):
        loaded = pa.concat_tables([loader(unit) for unit in some])
        explained = explainer(loaded)
        failed = explained.filter(pc.is_valid(explained["stage"])).to_pylist()
        failures += [f"{line['key'] or line['shard']}: {line['error']}" for line in failed]
        usable = pc.is_null(explained["stage"])
        good.append((loaded.filter(usable), explained.filter(usable)))
        left = count - sum(len(table) for table, _ in good)
    if left == count:
        raise InputError(f"input.shards: none of {len(failures)} images can be explained ({failures[0]})")
    before, after = (pa.concat_tables(tables) for tables in zip(*good, strict=True))
    sizes = zip(before["input_height"].to_pylist(), before["input_width"].to_pylist(), strict=True)
    return Drawn(
        notes=after.select(NOTED).to_pylist(),
        pixels=[whole[:h, :w] for whole, (h, w) in zip(from_column(before["pixels"]), sizes, strict=True)],
        targets=after["target"].to_numpy().astype(np.int64),
        references=from_column(after["references"]).astype(np.int64),
        registration=plan.layout.registration,
        failures=failures,
    )


def _units(plan: Manifest, numbers: Sequence[int]) -> Iterator[Unit]:
    """The units of some images, by their numbers in the order of the shards."""
    ends = list(accumulate(entry.index["count"] for entry in plan.shards))
    for number in numbers:
        place = bisect_right(ends, number)
        entry = plan.shards[place]
        yield entry_units(entry, 1)[number - ends[place] + entry.index["count"]]
