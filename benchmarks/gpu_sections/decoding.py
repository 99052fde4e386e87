"""Loading alone, on some processes: reading a tar, decoding and resizing, as the job's loading stage does it.

    python -m benchmarks.gpu_sections.decoding SHARD IMAGES SIDE CROP PROCESSES ROUNDS      # prints images per second

A program of its own, so that its processes are forked from one that has neither torch nor a GPU's context.
"""

import multiprocessing
import sys
import time

from finer_ray.config.schema import InputConfig
from finer_ray.images.transform import Transform
from finer_ray.pipeline.unit_loading import Loader
from finer_ray.store.manifest import Unit


def rate(shard: str, images: int, transform: Transform, processes: int, rounds: int) -> float:
    """Images per second of all processes together."""
    loader = Loader(InputConfig(shards=[shard]), transform, True, 0.0)
    unit = Unit(number=0, url=shard, format="webdataset", start=0, first_index=0, count=images)
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        counted = _Counted(loader)
        pool.map(counted, [unit] * processes, chunksize=1)
        start = time.perf_counter()
        pool.map(counted, [unit] * (processes * rounds), chunksize=1)
        return images * processes * rounds / (time.perf_counter() - start)


class _Counted:
    """A loader of which only the count comes back."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __call__(self, unit: Unit) -> int:
        return len(self._loader(unit))


def main() -> None:
    """Print the rate."""
    shard, (images, side) = sys.argv[1], map(int, sys.argv[2:4])
    processes, rounds = map(int, sys.argv[5:7])
    print(rate(shard, images, Transform(size=(side, side), crop_pct=float(sys.argv[4])), processes, rounds))


if __name__ == "__main__":
    main()
