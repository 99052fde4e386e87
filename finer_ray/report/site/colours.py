"""Colour maps for the page's script: perceptually uniform ones that colour-blind readers can follow."""

import json

import matplotlib
import numpy as np

# cividis looks alike with and without red-green blindness; the others rise evenly in light.
NAMES = ("inferno", "viridis", "cividis")


def colour_table(name: str) -> np.ndarray:
    """The 256 colours of a map, (256, 3) uint8: level v in [0, 1] has the colour min(255, floor(256 v))."""
    table: np.ndarray = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return table


def colours_script() -> str:
    """A script that sets `finerRayColours`: for each name, 256 colours as one string of hexadecimal digits."""
    tables = {name: colour_table(name).tobytes().hex() for name in NAMES}
    return f"window.finerRayColours = {json.dumps(tables)};\n"
