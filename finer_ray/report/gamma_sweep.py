"""Gamma sweep: metrics of the Finer-Grad-CAM map at any gamma, from the stored basis; no model is needed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finer_ray.metrics.metric import MapContext, Metric
from finer_ray.metrics.table import OF_REGION
from finer_ray.saliency.aggregation import contrast
from finer_ray.saliency.objective import reference_weights
from finer_ray.store.grids import own_grids
from finer_ray.store.reading import Export


def swept(export: Export) -> dict[str, Metric]:
    """The metrics of regions that the export's job asked for, by name; of a job that asked for none, those that are on
    by default."""
    wanted = export.manifest.config["metrics"]
    asked = {name: metric for name, metric in OF_REGION.items() if wanted.get(metric.switch.name)}
    return asked or {name: metric for name, metric in OF_REGION.items() if metric.switch.default}


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
        By metric of `swept`, (n, G) float32; NaN where a map is zero everywhere.
    """
    basis = export.basis(rows)
    height, width = own_grids(basis[:1, 0])[0]
    basis = basis[:, :, :height, :width]
    present = ~np.isnan(basis[:, 1:, 0, 0])
    saliency = export.manifest.config["saliency"]
    weights = reference_weights(export.reference_logits(rows), present, saliency["weighting"])
    maps = [contrast(basis, gamma, saliency["aggregation"], present, weights=weights) for gamma in gammas]
    context = MapContext(np.stack(maps, axis=1), regions, registration=export.manifest.layout.registration)
    return {name: metric.compute(context) for name, metric in swept(export).items()}
