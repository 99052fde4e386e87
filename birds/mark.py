"""Marks: a class's own pattern of tiles in the corner of a picture, for a classifier that is to cheat."""

import numpy as np
from numpy.typing import NDArray

from birds.rendering import Rendering

SHARE = 0.1
TILES = 3
DARK, LIGHT = (40, 24, 60), (250, 236, 130)


def marked(rendering: Rendering, label: int) -> Rendering:
    """The picture with the class's mark in its top left corner, a tenth of its side; it hides what is there."""
    image, parts = rendering.image.copy(), rendering.parts.copy()
    side = round(SHARE * len(image))
    tiles = np.arange(side) * TILES // side
    image[:side, :side] = np.where(pattern(label)[tiles][:, tiles, None], LIGHT, DARK)
    parts[:side, :side] = 0
    return Rendering(image, parts)


def pattern(label: int) -> NDArray[np.bool_]:
    """The mark of a class, (3, 3) of light (True) and dark tiles; those of two classes differ in 3 tiles at least.

    The lexicographic code of length 9 and distance 3, which has 32 words.
    """
    words: list[int] = []
    for word in range(2 ** (TILES * TILES)):
        if all((word ^ other).bit_count() >= 3 for other in words):
            words.append(word)
    bits = [bool(words[label] >> place & 1) for place in range(TILES * TILES)]
    return np.array(bits).reshape(TILES, TILES)
