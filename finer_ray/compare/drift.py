"""Drift: whether the images of two exports are distributed alike, by metrics, predicted classes and embeddings."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.compare.images import common_maps
from finer_ray.compare.stability import Stability, of_names, of_values
from finer_ray.report.paper_table import metric_values
from finer_ray.store.reading import Export

# Directions of the first export's embeddings, and images of each export that they are found and measured with.
COMPONENTS, EMBEDDED = 8, 10_000
# The chance that any of a comparison's figures is called drift where there is none.
LEVEL = 0.05
DRIFT = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("map", pa.string()),
        pa.field("name", pa.string(), nullable=False),
        pa.field("psi", pa.float64(), nullable=False),
        pa.field("bins", pa.int32(), nullable=False),
        pa.field("chance", pa.float64(), nullable=False),
        pa.field("drifted", pa.bool_(), nullable=False),
    ]
)
Found = tuple[str, str | None, str, Stability | None]


def drift(a: Export, b: Export) -> pa.Table:
    """The population stability index of all that both exports have, with the schema DRIFT.

    `chance` is what 5 % of comparisons of two samples of the same images would exceed in any of their lines;
    `drifted` says whether the line does.
    """
    found = [*_images(a, b), *_metrics(a, b), *_embeddings(a, b)]
    known = [(kind, name, what, measured) for kind, name, what, measured in found if measured is not None]
    lines = []
    for kind, name, what, measured in known:
        chance = measured.chance(LEVEL / len(known))
        lines.append((kind, name, what, measured.psi, measured.bins, chance, measured.psi > chance))
    columns = zip(*lines, strict=True) if lines else [()] * len(DRIFT)
    return pa.table(dict(zip(DRIFT.names, map(list, columns), strict=True)), DRIFT)


def _images(a: Export, b: Export) -> Iterator[Found]:
    names = (np.array(export.manifest.classes)[export.images["predicted"].to_numpy()].astype(str) for export in (a, b))
    yield "prediction", None, "predicted class", of_names(*names)
    sure = (pc.cast(export.images["predicted_probability"], pa.float64()).to_numpy() for export in (a, b))
    yield "prediction", None, "probability of the prediction", of_values(*sure)


def _metrics(a: Export, b: Export) -> Iterator[Found]:
    for name in common_maps(a, b):
        known_a, known_b = (metric_values(export, name) for export in (a, b))
        for metric in known_a:
            yield "metric", name, metric, of_values(known_a[metric], known_b[metric])


def _embeddings(a: Export, b: Export) -> Iterator[Found]:
    """Along the principal components of the first export's embeddings, and how much of each lies beside them."""
    lengths = {export.manifest.layout.embedding for export in (a, b)}
    if None in lengths or len(lengths) > 1 or a.images.num_rows < 2:
        return
    values_a, values_b = (_embedded(export) for export in (a, b))
    mean = values_a.mean(0)
    axes, shares = principal_components(values_a - mean)
    places = [(values - mean) @ axes for values in (values_a, values_b)]
    beside = [
        np.linalg.norm(values - mean - place @ axes.T, axis=1)
        for values, place in zip((values_a, values_b), places, strict=True)
    ]
    for number, share in enumerate(shares):
        measured = of_values(places[0][:, number], places[1][:, number])
        yield "embedding", None, f"component {number + 1} ({share:.0%} of the variance)", measured
    yield "embedding", None, "beside the components", of_values(*beside)


def principal_components(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The directions of most variance.

    Args:
        centred: (n, E), of mean 0.

    Returns:
        (E, k), at most `COMPONENTS` of length 1, and their shares of the variance, (k,); none of no variance.
    """
    spread, axes = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(spread)[::-1][:COMPONENTS]
    order = order[spread[order] > spread.max() * 1e-9]
    return axes[:, order], spread[order] / spread.clip(0).sum()


def _embedded(export: Export) -> NDArray[np.float64]:
    """Embeddings of at most `EMBEDDED` images, evenly spread over the rows."""
    rows = export.images["row"].to_numpy()
    chosen = rows[np.linspace(0, len(rows) - 1, min(EMBEDDED, len(rows))).astype(np.int64)]
    return export.embedding(chosen).astype(np.float64)
