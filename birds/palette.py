"""Palette: the colours that words mean, and their small variation from bird to bird."""

import colorsys

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": "#cf3526",
    "yellow": "#efc52f",
    "buff": "#d9b98a",
    "chestnut": "#8c431f",
    "pink": "#d99a8e",
    "white": "#f5f2e9",
    "grey": "#8a8d90",
    "blue": "#2f62a8",
    "black": "#26231f",
}
# Of hue (turns), saturation and value (factors). The closest colours of siblings, red and yellow, lie 0.12 turns apart.
JITTER = (0.008, 0.08, 0.06)


def jittered(colour: str, shift: NDArray[np.float64]) -> str:
    """A colour "#rrggbb", varied by `shift`: three numbers in [-1, 1], in units of JITTER."""
    hue, saturation, value = shift * JITTER
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in _channels(colour)))
    return _hexadecimal(colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * (1 + saturation)), min(1, v * (1 + value))))


def mixed(a: str, b: str, share: float) -> str:
    """A colour between two, `share` of the second."""
    pairs = zip(_channels(a), _channels(b), strict=True)
    return _hexadecimal([(x + (y - x) * share) / 255 for x, y in pairs])


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _hexadecimal(rgb: object) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in np.clip(np.asarray(rgb), 0, 1).tolist())
