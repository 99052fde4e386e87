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

# Directions of the embeddings, and images of each export that they are found and measured with.
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
Values = NDArray[np.float64]
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
    lengths = {export.manifest.layout.embedding for export in (a, b)}
    if None not in lengths and len(lengths) == 1:
        for name, measured in embedding_drift(_embedded(a), _embedded(b)):
            yield "embedding", None, name, measured


def embedding_drift(a: Values, b: Values) -> Iterator[tuple[str, Stability | None]]:
    """The PSI of embeddings along their principal components, and of their distance from all of these.

    The components are those of both samples together: those of one alone would fit it better than the other, however
    alike both are.

    Args:
        a, b: embeddings, (n, E) and (m, E), finite.
    """
    if not (len(a) and len(b)):
        return
    mean = np.concatenate([a, b]).mean(0)
    a, b = a - mean, b - mean
    spread, axes = np.linalg.eigh(a.T @ a + b.T @ b)
    order = np.argsort(spread)[::-1][:COMPONENTS]
    # In fewer dimensions than there are components the others are of no variance.
    order = order[spread[order] > spread.max() * 1e-9]
    axes, shares = axes[:, order], spread[order] / spread.clip(0).sum()
    # Each sample by itself, so that one that is compared with itself gives the same numbers to the last bit.
    places = [values @ axes for values in (a, b)]
    beside = [np.linalg.norm(values - at @ axes.T, axis=1) for values, at in zip((a, b), places, strict=True)]
    for number, share in enumerate(shares):
        measured = of_values(*(at[:, number] for at in places))
        yield f"component {number + 1} ({share:.0%} of the variance)", measured
    yield "beside the components", of_values(*beside)


def _embedded(export: Export) -> Values:
    """Embeddings of at most `EMBEDDED` images, evenly spread over the rows; none that are not finite."""
    rows = export.images["row"].to_numpy()
    chosen = rows[np.linspace(0, len(rows) - 1, min(EMBEDDED, len(rows))).astype(np.int64)]
    values = export.embedding(chosen).astype(np.float64)
    return values[np.isfinite(values).all(1)]
