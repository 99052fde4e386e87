"""Notes: what could not be compared, and why, a sentence each."""

from collections.abc import Collection, Iterator

import pyarrow.compute as pc

from finer_ray.compare.joining import Joined
from finer_ray.metrics.table import REPORTED
from finer_ray.store.reading import Export

# Names that a sentence lists.
LISTED = 5


def notes(a: Export, b: Export, both: Joined) -> list[str]:
    """What a reader must know of a comparison.

    Args:
        a, b: two exports.
        both: the images that these have in common.
    """
    return [*_of_images(both), *_of_classes(a, b), *_of_the_rest(a, b)]


def _of_images(both: Joined) -> Iterator[str]:
    if both.other_size:
        yield f"{both.other_size} keys stand for photos of another size in B: those are other photos, not joined"
    if both.failed:
        yield f"images that A has explained and that are among B's failures: {both.failed}"
    if both.other_files and len(both):
        yield (
            f"{both.other_files} of the shards that are joined by name hold other bytes in B than in A: if keys are "
            "the same but images are not, compare distributions alone, with --drift"
        )
    if not len(both):
        yield "no image is joined: distributions are compared, not images"


def _of_classes(a: Export, b: Export) -> Iterator[str]:
    names_a, names_b = (set(export.manifest.classes) for export in (a, b))
    if names_a != names_b:
        shared = len(names_a & names_b)
        yield f"the classes are others: {len(names_a)} in A, {len(names_b)} in B, {shared} by one name in both"


def _of_the_rest(a: Export, b: Export) -> Iterator[str]:
    """Maps, metrics and embeddings that only one of the two has."""
    maps = a.manifest.layout.maps, b.manifest.layout.maps
    yield from _alone("maps", *maps)
    if not set(maps[0]) & set(maps[1]):
        yield "A and B have no map of one name: maps and their metrics are not compared"
    else:
        yield from _alone("metrics", _measured(a), _measured(b))
    lengths = [export.manifest.layout.embedding for export in (a, b)]
    if lengths[0] != lengths[1]:
        lengths_a, lengths_b = ("none" if length is None else f"{length} numbers" for length in lengths)
        yield f"embeddings are not compared: of each image A has {lengths_a}, B {lengths_b}"


def _measured(export: Export) -> list[str]:
    """Metrics that some image has."""
    table = export.metrics
    return [name for name in REPORTED if pc.any(pc.is_valid(table[name])).as_py()]


def _alone(what: str, a: Collection[str], b: Collection[str]) -> Iterator[str]:
    for side, own, other in (("A", a, b), ("B", b, a)):
        if alone := [name for name in own if name not in other]:
            more = f" and {len(alone) - LISTED} more" if len(alone) > LISTED else ""
            yield f"{what} that only {side} has: {', '.join(alone[:LISTED])}{more}"
