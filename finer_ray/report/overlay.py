"""Overlays: a map over its photo, so that the photo keeps its colours.

The formula, which `site/assets/paint.js` computes too. A value m of a map has the level q = floor(256 m / peak), cut to
0..255, and the heat v = min(1, 1.6 q / 255). A mode gives each level a colour and an opacity alpha, of a layer over the
photo:

    pixel = (1 - alpha) * photo + alpha * colour

- heat: alpha = strength * v, and the colour map from its 77th colour on, because its dark end would only dim the photo.
- hot: alpha = strength * (1 - v), and a dark grey: the photo is itself where the map is high.
- full: alpha = strength, and the whole colour map: equal opacity everywhere.

Opacities are rounded to 1/255, as a canvas holds them. The page also draws contours, at 25, 50 and 75 % of the peak.
"""

import numpy as np
from numpy.typing import NDArray

from finer_ray.report.colours import NAMES, colour_table

STRENGTH = 0.65
# First colour of `heat`; grey of `hot`; 1 / REACH of the peak is as hot as can be.
FIRST, DARK, REACH = 77, 26, 1.6
# Modes of the page's display by what they are called there; the first is the default.
MODES = {"heat": "heat", "hot": "only where it is hot", "contours": "contours", "full": "full cover"}


def overlay(
    photo: NDArray[np.uint8],
    heat: NDArray[np.float32],
    mode: str = "heat",
    peak: float | None = None,
    colours: str = NAMES[0],
    strength: float = STRENGTH,
) -> NDArray[np.float64]:
    """A map over its photo.

    Args:
        photo: (H, W, 3) uint8.
        heat: (H, W); values below zero count as zero.
        mode: heat, hot or full.
        peak: value with the last colour; the map's maximum when None.
        colours: name of the colour map, one of matplotlib's.
        strength: opacity of the layer where it is most opaque, in [0, 1].

    Returns:
        (H, W, 3) in [0, 1].

    >>> photo = np.full((1, 2, 3), 200, dtype=np.uint8)
    >>> (overlay(photo, np.array([[0, 1]], dtype=np.float32), strength=0.5) * 255).round().tolist()
    [[[200.0, 200.0, 200.0], [226.0, 227.0, 182.0]]]
    """
    layer = layer_table(mode, colours, strength)[levels(heat, float(heat.max()) if peak is None else peak)] / 255
    alpha = layer[..., 3:]
    mixed: NDArray[np.float64] = (1 - alpha) * (photo / 255) + alpha * layer[..., :3]
    return mixed


def levels(heat: NDArray[np.float32], peak: float) -> NDArray[np.uint8]:
    """The level of each value, 0 to 255; all 0 where the peak is not positive."""
    if peak <= 0:
        return np.zeros(heat.shape, np.uint8)
    return np.clip(256 * heat.astype(np.float64) / peak, 0, 255).astype(np.uint8)


def layer_table(mode: str, colours: str, strength: float) -> NDArray[np.uint8]:
    """Red, green, blue and opacity of the layer at each level, (256, 4) uint8; arguments as of `overlay`."""
    level = np.arange(256)
    share = np.minimum(1, REACH * level / 255)
    colour, alpha = {
        "heat": (colour_table(colours)[FIRST + (255 - FIRST) * level // 255], share),
        "hot": (np.full((256, 3), DARK), 1 - share),
        "full": (colour_table(colours), np.ones(256)),
    }[mode]
    return np.column_stack([colour, np.floor(255 * strength * alpha + 0.5)]).astype(np.uint8)
