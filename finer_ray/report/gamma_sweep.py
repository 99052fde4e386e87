"""Gamma sweep: metrics of the Finer-Grad-CAM map at any gamma, from the stored basis; no model is needed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finer_ray.metrics.metric import MapContext
from finer_ray.metrics.table import OF_REGION
from finer_ray.saliency.aggregation import contrast
from finer_ray.saliency.objective import reference_weights
from finer_ray.store.grids import own_grids
from finer_ray.store.reading import Export


def sweep_scores(
    export: Export, rows: Sequence[int], regions: NDArray[np.bool_], gammas: Sequence[float]
) -> dict[str, NDArray[np.float32]]:
    """Metrics against all references of an image, aggregated and weighed as in the export's section `saliency`.

    Args:
        export: with a contrast basis.
        rows: n of its images, which have one grid.
        regions: where they are annotated, (n, H, W) bool.
        gammas: G of them.

    Returns:
        By metric of `OF_REGION`, (n, G) float32; NaN where a map is zero everywhere.
    """
    basis = export.basis(rows)
    height, width = own_grids(basis[:1, 0])[0]
    basis = basis[:, :, :height, :width]
    present = ~np.isnan(basis[:, 1:, 0, 0])
    saliency = export.manifest.config["saliency"]
    weights = reference_weights(export.reference_logits(rows), present, saliency["weighting"])
    maps = [contrast(basis, gamma, saliency["aggregation"], present, weights=weights) for gamma in gammas]
    context = MapContext(np.stack(maps, axis=1), regions, registration=export.manifest.layout.registration)
    return {name: metric.compute(context) for name, metric in OF_REGION.items()}
