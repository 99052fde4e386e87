"""Map data: the numbers of one image from which a page's script redraws its maps."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.images.decode import Decoded
from finer_ray.report.best_map import best_map
from finer_ray.report.paper_table import baselines
from finer_ray.saliency.registration import Registration
from finer_ray.saliency.spec import maps_of
from finer_ray.store.grids import own_grids
from finer_ray.store.reading import Export

# Tensors of a row that `map_data` reads.
SHOWN = ("maps", "maps_scale", "basis", "basis_scale")


def main_map(export: Export) -> str:
    """The map that stands for an export: the one that measures best, see `best_map`. The export has maps."""
    return best_map(export).name or export.manifest.layout.maps[0]


def input_size(export: Export, line: dict[str, Any]) -> Sequence[int]:
    """(H, W) of what the model saw of an image, by its line of `images`; earlier versions did not write it there."""
    if line["input_height"] is not None:
        return line["input_height"], line["input_width"]
    size: Sequence[int] = export.manifest.transform.get("size", export.manifest.layout.grid)
    return size


def map_data(
    export: Export,
    line: dict[str, Any],
    tensors: dict[str, NDArray[Any]],
    decoded: Decoded | None,
    main: str | None = None,
) -> dict[str, Any]:
    """What the page's script computes from: maps and basis as stored (float16, base64) with their scales.

    A map is `comparable` where its values have the unit of those that the page computes from the basis, which is
    Grad-CAM's: sums of gradients' means times activations. Other methods' maps have units of their own.

    Args:
        export: whose manifest is read.
        line: of the table `images`.
        tensors: of the row, by name, those of SHOWN that the export has.
        decoded: the photo, None where it is not at hand.
        main: the map that stands for the export, where that is known already; None for `main_map(export)`.
    """
    manifest = export.manifest
    saliency = manifest.config["saliency"]
    size = decoded.image.shape[:2] if decoded is not None else input_size(export, line)
    own = own_grids(tensors["maps"][:1])[0]
    cells = (..., slice(own[0]), slice(own[1]))
    here = manifest.layout.registration or Registration.stretched(size, own.tolist())
    cams = {spec.name: spec.cam for spec in maps_of(saliency)}
    names = [manifest.classes[index] if index >= 0 else None for index in line["references"]]
    finer, baseline = next(iter(baselines(export).items()), [manifest.layout.maps[0]] * 2)
    return {
        "size": list(size),
        "grid": own.tolist(),
        "centres": [list(values) for values in (here.offset, here.stride)],
        "maps": [
            {
                "name": name,
                "scale": float(tensors["maps_scale"][place]),
                "values": _base64(tensors["maps"][place][cells]),
                "comparable": cams.get(name) == "gradcam",
            }
            for place, name in enumerate(manifest.layout.maps)
        ],
        "basis": {"scale": float(tensors["basis_scale"]), "values": _base64(tensors["basis"][cells])}
        if "basis" in tensors
        else None,
        "target": manifest.classes[line["target"]],
        "references": [
            {"name": name, "logit": _finite(logit)} for name, logit in zip(names, line["reference_logits"], strict=True)
        ],
        "gamma": saliency["gamma"],
        "aggregation": saliency["aggregation"],
        "weighting": saliency["weighting"],
        "baseline": baseline,
        "finer": finer,
        "main": main or main_map(export),
    }


def _base64(values: NDArray[np.float16]) -> str:
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
