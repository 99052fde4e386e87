"""The map of the embeddings: a place in the plane for each image, near the images that the model sees alike."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from finer_ray.report.site.page_sample import spread
from finer_ray.store.reading import Export

# Images that t-SNE places; any others are put beside those that they resemble most. It takes seconds for so many.
PLACED_BY_TSNE = 1000
BESIDE = 3
# Of 5, 10, 15 and 30 it parts 24 classes of drawn birds best: silhouette 0.78 (principal components alone: 0.40).
PERPLEXITY = 15
# t-SNE starts from so many principal components.
COMPONENTS = 50
# Rows of embeddings in memory together.
BATCH = 4096
# Of the longer side of the map.
SPAN = 1000


def embedding_map(export: Export, rows: Sequence[int]) -> NDArray[np.float64] | None:
    """Where images lie on the map; the same for the same export and rows.

    Args:
        export: any.
        rows: n rows of images.

    Returns:
        (n, 2) whole numbers from 0 to `SPAN`, NaN for an image without a finite embedding; None where the export has no
        embeddings, or no image has a finite one.
    """
    if export.manifest.layout.embedding is None or not len(rows):
        return None
    fitted = _directions(export, spread(rows, PLACED_BY_TSNE))
    finite = np.isfinite(fitted).all(1)
    if not finite.any():
        return None
    # Several threads would sum in an order of their own, and t-SNE ends elsewhere.
    with threadpool_limits(1):
        directions = _components(fitted[finite])
        reduced = np.concatenate(
            [_directions(export, rows[first : first + BATCH]) @ directions for first in range(0, len(rows), BATCH)]
        )
        known = np.isfinite(reduced).all(1)
        places = np.full((len(rows), 2), np.nan)
        places[known] = _framed(place(reduced[known]))
    return places


def no_map(export: Export) -> str:
    """Why there is no map of an export's embeddings, for the page."""
    if export.manifest.layout.embedding is None:
        return "The export has no embeddings (output.embedding: false), so there is no map of them."
    return "No image has a finite embedding, so there is no map of them."


def place(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Places in the plane by t-SNE, from the first two components; further images beside their nearest.

    Args:
        features: (n, d) principal components, the first the largest; n >= 1.

    Returns:
        (n, 2), finite.
    """
    # On first use: scikit-learn takes longer to import than most reports to write, and many exports have no embeddings.
    from sklearn.manifold import TSNE
    from sklearn.neighbors import KNeighborsRegressor

    chosen = spread(range(len(features)), PLACED_BY_TSNE)
    start = np.zeros((len(chosen), 2))
    start[:, : features.shape[1]] = features[chosen, :2]
    width = start[:, 0].std()
    # So few have no neighbourhoods.
    if len(chosen) < 8 or width == 0:
        placed = start
    else:
        perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
        method = TSNE(perplexity=perplexity, init=(start / width * 1e-4).astype(np.float32), random_state=0)
        placed = method.fit_transform(features[chosen]).astype(np.float64)
    if len(chosen) == len(features):
        return placed
    found: NDArray[np.float64] = (
        KNeighborsRegressor(BESIDE, weights="distance").fit(features[chosen], placed).predict(features)
    )
    return found


def _directions(export: Export, rows: Sequence[int]) -> NDArray[np.float32]:
    """Embeddings of length 1, (n, E); NaN where one is not finite."""
    values: NDArray[np.float32] = export.embedding(rows).astype(np.float32)
    values[~np.isfinite(values).all(1)] = np.nan
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    values /= lengths
    return values


def _components(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal components of values, (E, d); each turned so that its largest entry is positive."""
    _, _, components = np.linalg.svd(values - values.mean(0), full_matrices=False)
    components = components[:COMPONENTS]
    largest = np.abs(components).argmax(1)
    signs = np.sign(components[np.arange(len(components)), largest])
    turned: NDArray[np.float32] = (components * signs[:, None]).T
    return turned


def _framed(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places from 0 to SPAN, in one scale for both axes."""
    low, high = places.min(0), places.max(0)
    extent = (high - low).max()
    framed: NDArray[np.float64] = np.round((places - (low + high) / 2) / (extent or 1) * SPAN + SPAN / 2)
    return framed
