"""Colour maps of maps: perceptually uniform ones that colour-blind readers can follow, and one with two ends."""

import json

import matplotlib
import numpy as np

# cividis looks alike with and without red-green blindness; the others rise evenly in light.
NAMES = ("inferno", "viridis", "cividis")
# Of differences: purple below zero, orange above, which colour-blind readers tell apart.
DIVERGING = "PuOr_r"


def colour_table(name: str) -> np.ndarray:
    """The 256 colours of a map, (256, 3) uint8: level v in [0, 1] has the colour min(255, floor(256 v))."""
    table: np.ndarray = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return table


def colours_script() -> str:
    """A script that sets `finerRayColours`: for each name, 256 colours as one string of hexadecimal digits."""
    names = {name: name for name in NAMES} | {"diverging": DIVERGING}
    tables = {key: colour_table(name).tobytes().hex() for key, name in names.items()}
    return f"window.finerRayColours = {json.dumps(tables)};\n"
