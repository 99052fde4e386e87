"""Poses: how a bird holds itself, and where in the picture."""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Pose:
    """One bird's pose. Angles in degrees, raised is positive.

    Attributes:
        mirrored: it looks to the left.
        tilt: of the torso, beside what its plan says.
        pitch: of the head.
        turn: of the head towards the viewer, 0 to 1.
        stretch: (ahead, up) of the head, in scene units.
        tail: of the tail against the torso.
        wing: how far the wing hangs.
        scale: of the whole bird.
        place: where the bird's bounds lie in what the picture leaves free, 0 to 1 across and down.
    """

    mirrored: bool
    tilt: float
    pitch: float
    turn: float
    stretch: tuple[float, float]
    tail: float
    wing: float
    scale: float
    place: tuple[float, float]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Self:
        """A random pose."""
        return cls(
            mirrored=bool(rng.random() < 0.5),
            tilt=rng.uniform(-9, 11),
            pitch=rng.uniform(-16, 14),
            turn=rng.uniform(0, 0.5),
            stretch=(rng.uniform(-2, 3), rng.uniform(-3, 5)),
            tail=rng.uniform(-16, 16),
            wing=rng.uniform(-3, 13),
            scale=rng.uniform(0.84, 1.12),
            place=(rng.random(), rng.random()),
        )
