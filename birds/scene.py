"""Scenes: what is behind a bird, under its feet and before it, and the light on it all."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from birds.layers import Layer
from birds.palette import mixed
from birds.svg import Frame, blur, blurred, clip, closed, curve, fill, linear, oval, radial, stroke

SIZE = 224
BLURS = (2.5, 5, 9)
# Colours above and below, and of what is out of focus in between.
BACKDROPS = {
    "sky": ("#8fbbe0", "#e6eef0", ("#ffffff", "#f2f5f6", "#c9dcea")),
    "forest": ("#3d5a3a", "#8aa066", ("#2c4630", "#6f8f52", "#a9b878", "#d3d59a")),
    "reeds": ("#cfc58e", "#8f8a4c", ("#a8994f", "#7c7a3a", "#e0d59c", "#5f6a35")),
    "snow": ("#b9c6d6", "#eef2f6", ("#ffffff", "#d7e0ea", "#9fb0c4")),
    "meadow": ("#a9c77a", "#5f8d45", ("#7fae55", "#d9d56a", "#e8b7c8", "#4d7a3c")),
    "shore": ("#9fc3cf", "#d8c9a0", ("#c4dbe0", "#7fa9b8", "#e6dab6")),
    "dusk": ("#6f6a94", "#e3a77a", ("#f0c492", "#8d7aa0", "#c98a78")),
}
PERCHES = ("branch", "twig", "rock", "log", "ground")
BARK = ("#5d4634", "#6d5642", "#4c3b30", "#7b6a58")
LEAVES = ("#5c8a3a", "#7aa04a", "#8f9a3f", "#b5893a", "#43703a")
STONE = ("#8b8780", "#a09a8e", "#77736f")
EARTH = ("#b7a273", "#8d7a58", "#7f8f55", "#d5cfc4")


@dataclass(frozen=True)
class Scene:
    """Everything but the bird, as SVG. None of it depends on the species.

    Attributes:
        behind: elements below the bird.
        before: what hides parts of the bird.
        light: elements over everything: warm or cold light, dapples of shade, a vignette.
        sun: unit vector towards the light.
    """

    behind: str
    before: list[Layer]
    light: str
    sun: tuple[float, float]

    @classmethod
    def sample(cls, rng: np.random.Generator, foot: tuple[float, float]) -> Self:
        """A random scene around a bird that stands at `foot`."""
        angle = rng.uniform(np.radians(25), np.radians(155))
        sun = (float(np.cos(angle)), -float(np.sin(angle)))
        # One generator each, so that what one of them draws does not move the others.
        backdrop, perch, leaves, light = rng.spawn(4)
        behind = "".join(blur(deviation) for deviation in BLURS) + _backdrop(backdrop) + _perch(perch, foot)
        return cls(behind, _leaves(leaves), _light(light), sun)


def _backdrop(rng: np.random.Generator) -> str:
    kind = str(rng.choice(list(BACKDROPS)))
    above, below, blobs = BACKDROPS[kind]
    low, high = rng.uniform(-0.12, 0.12, 2)
    above = mixed(above, "#ffffff" if high > 0 else "#000000", abs(high))
    below = mixed(below, "#ffffff" if low > 0 else "#000000", abs(low))
    turn = rng.uniform(-50, 50)
    sheet = linear("backdrop", (112 + turn, 0), (112 - turn, SIZE), [(0, above, 1), (1, below, 1)]) + _sheet("backdrop")
    far = [_blob(rng, str(rng.choice(blobs)), flat=kind in ("sky", "shore", "snow")) for _ in range(14)]
    near = []
    if kind == "reeds":
        near = [_stalk(rng, str(rng.choice(blobs))) for _ in range(18)]
    elif kind == "forest":
        near = [_trunk(rng) for _ in range(rng.integers(1, 5))]
    lights = [_bokeh(rng, str(rng.choice(blobs))) for _ in range(rng.integers(0, 12))]
    flakes = [_flake(rng) for _ in range(26)] if kind == "snow" else []
    distant = blurred("".join(far), 9) + (blurred("".join(near), 5) if near else "")
    return sheet + distant + "".join(lights + flakes)


def _blob(rng: np.random.Generator, paint: str, flat: bool) -> str:
    x, y = rng.uniform(-20, SIZE + 20, 2)
    width, height = (rng.uniform(30, 80), rng.uniform(6, 18)) if flat else rng.uniform(14, 48, 2)
    return fill(closed(oval(width, height, x, y, rng.uniform(-0.3, 0.3))), paint, rng.uniform(0.35, 0.8))


def _bokeh(rng: np.random.Generator, paint: str) -> str:
    radius = rng.uniform(4, 15)
    x, y = rng.uniform(0, SIZE, 2)
    return fill(closed(oval(radius, radius, x, y)), mixed(paint, "#ffffff", 0.35), rng.uniform(0.15, 0.42))


def _flake(rng: np.random.Generator) -> str:
    radius = rng.uniform(0.8, 2.2)
    x, y = rng.uniform(0, SIZE, 2)
    return fill(closed(oval(radius, radius, x, y, count=8)), "#ffffff", 0.8)


def _stalk(rng: np.random.Generator, paint: str) -> str:
    x, lean, bend = rng.uniform(0, SIZE), rng.uniform(-26, 26), rng.uniform(-10, 10)
    line = np.array([(x, SIZE + 10), (x + lean / 2 + bend, SIZE / 2), (x + lean, -10)])
    return stroke(curve(line), paint, rng.uniform(2, 8), rng.uniform(0.5, 0.9))


def _trunk(rng: np.random.Generator) -> str:
    x, lean = rng.uniform(0, SIZE), rng.uniform(-16, 16)
    line = np.array([(x, SIZE + 10), (x + lean, -10)])
    return stroke(curve(line), "#2d2a22", rng.uniform(8, 26), rng.uniform(0.3, 0.6))


def _perch(rng: np.random.Generator, foot: tuple[float, float]) -> str:
    kind = str(rng.choice(PERCHES))
    x, y = foot
    if kind in ("branch", "twig", "log"):
        width = {"twig": rng.uniform(7, 10), "branch": rng.uniform(12, 18), "log": rng.uniform(26, 40)}[kind]
        return _branch(rng, x, y, width)
    return _mound(rng, x, y, str(rng.choice(STONE if kind == "rock" else EARTH)), wide=kind == "ground")


def _branch(rng: np.random.Generator, x: float, y: float, width: float) -> str:
    """A branch whose upper edge lies under the feet."""
    paint, slope = str(rng.choice(BARK)), rng.uniform(-0.14, 0.14)
    along = np.array([-40.0, x - 55, x, x + 55, SIZE + 40])
    bend = rng.uniform(-7, 7, 5) * (1, 0.4, 0, 0.4, 1)
    line = np.stack([along, y + 1.5 + width / 2 + slope * (along - x) + bend], 1)
    half = (0.0, width / 2)
    parts = [_leaf(rng, along_leaf, y + slope * (along_leaf - x) + width * 0.6) for along_leaf in _beside(rng, x)]
    parts.append(stroke(curve(line), paint, width))
    parts.append(stroke(curve(line - np.multiply(half, 0.62)), mixed(paint, "#ffe9c4", 0.45), width * 0.24, 0.65))
    parts.append(stroke(curve(line + np.multiply(half, 0.62)), "#15110d", width * 0.36, 0.35))
    for _ in range(10):
        at, deep = rng.uniform(0, SIZE), rng.uniform(-0.3, 0.3)
        middle = float(np.interp(at, line[:, 0], line[:, 1])) + deep * width
        mark = np.add((at, middle), [(0, 0), (rng.uniform(6, 18), rng.uniform(-1, 1))])
        parts.append(stroke(curve(mark), "#1d1712", 0.9, 0.4))
    shadow = fill(closed(oval(24, max(2.2, width * 0.18), x, y + 3.5)), "#0e0c0a", 0.5)
    return "".join(parts) + blurred(shadow, 2.5)


def _beside(rng: np.random.Generator, x: float) -> list[float]:
    """Places along a branch, away from the bird's feet."""
    return [at for at in rng.uniform(0, SIZE, rng.integers(0, 7)).tolist() if abs(at - x) > 30]


def _leaf(rng: np.random.Generator, x: float, y: float) -> str:
    outline, vein, paint = _blade(rng, x, y, rng.uniform(16, 30))
    return fill(outline, paint) + stroke(vein, "#20301a", 0.8, 0.35)


def _blade(rng: np.random.Generator, x: float, y: float, length: float) -> tuple[str, str, str]:
    """A leaf that hangs or stands at a place: outline, vein, colour."""
    frame = Frame((x, y), rng.uniform(0, 2 * np.pi), length)
    outline = np.array([(0, 0), (0.3, -0.2), (0.65, -0.17), (1, 0), (0.65, 0.16), (0.3, 0.2)])
    return closed(frame(outline)), curve(frame(np.array([(0.02, 0), (0.9, 0)]))), str(rng.choice(LEAVES))


def _mound(rng: np.random.Generator, x: float, y: float, paint: str, wide: bool) -> str:
    """A rock, or ground up to both edges, whose top lies under the feet."""
    reach = 190 if wide else rng.uniform(58, 95)
    rough = rng.uniform(-5, 5, 6) * (1, 0.6, 0, 0, 0.6, 1) * (0.5 if wide else 1)
    steps, drops = np.array([-1, -0.55, -0.2, 0.2, 0.55, 1]) * reach, np.array([60, 12, 1, 1, 12, 60])
    top = np.stack([x + steps, y + 1.5 + drops * (0.12 if wide else 1) + rough], 1)
    outline = np.vstack([top, [(x + 1.25 * reach, SIZE + 50), (x - 1.25 * reach, SIZE + 50)]])
    path = closed(outline)
    stops = [(0.0, mixed(paint, "#fff4dc", 0.40), 1.0), (0.25, paint, 1.0), (1.0, mixed(paint, "#14120f", 0.55), 1.0)]
    shade = linear("mound", (x, y), (x, y + 85), stops)
    parts = [shade, fill(path, "url(#mound)")]
    for _ in range(26):
        across, down = rng.uniform(-0.8, 0.8) * reach, rng.uniform(6, 60)
        speck = oval(rng.uniform(1, 4), rng.uniform(0.7, 1.8), x + across, y + down + abs(across) * 0.35, count=8)
        parts.append(fill(closed(speck), "#1b1814" if rng.random() < 0.6 else "#fff6e2", 0.22))
    shadow = blurred(fill(closed(oval(30, 4.5, x + 4, y + 5)), "#0e0c0a", 0.5), 2.5)
    return "".join(parts) + clip("mound-edge", path) + f'<g clip-path="url(#mound-edge)">{shadow}</g>'


def _leaves(rng: np.random.Generator) -> list[Layer]:
    """In a third of the scenes: leaves on a twig, or blades of grass, before everything."""
    kind = rng.choice(["none", "leaves", "grass"], p=[0.66, 0.17, 0.17])
    if kind == "leaves":
        return _spray(rng)
    if kind == "grass":
        return [_grass(rng) for _ in range(rng.integers(2, 5))]
    return []


def _spray(rng: np.random.Generator) -> list[Layer]:
    left = rng.random() < 0.5
    start = np.array([-8.0 if left else SIZE + 8.0, rng.uniform(20, SIZE)])
    end = np.add(start, (rng.uniform(45, 105) * (1 if left else -1), rng.uniform(-45, 45)))
    middle = np.add((start + end) / 2, (0, rng.uniform(-10, 10)))
    layers = [Layer(None, curve(np.array([start, middle, end])), "#4a3a2c", width=2.4)]
    for share in (0.35, 0.6, 0.8, 1.0):
        x, y = start + (end - start) * share
        outline, vein, paint = _blade(rng, x, y, rng.uniform(17, 27))
        layers.append(Layer(None, outline, paint, detail=stroke(vein, "#1c2a16", 0.9, 0.5)))
    return layers


def _grass(rng: np.random.Generator) -> Layer:
    x, lean, high = rng.uniform(0, SIZE), rng.uniform(-45, 45), rng.uniform(90, 190)
    line = np.array([(x, SIZE + 6), (x + 0.3 * lean, SIZE - 0.5 * high), (x + lean, SIZE - high)])
    return Layer(None, curve(line), mixed(str(rng.choice(LEAVES)), "#d8cf8a", 0.35), width=rng.uniform(2, 3.6))


def _light(rng: np.random.Generator) -> str:
    tint = mixed("#ffb45e", "#5f8fe0", rng.random())
    parts = [f'<rect width="{SIZE}" height="{SIZE}" fill="{tint}" fill-opacity="{rng.uniform(0, 0.11):.3f}"/>']
    if rng.random() < 0.35:
        spots = [closed(oval(*rng.uniform(16, 46, 2), *rng.uniform(0, SIZE, 2))) for _ in range(5)]
        parts.append(blurred("".join(fill(spot, "#0c1420", 0.17) for spot in spots), 9))
    level = rng.uniform(-0.16, 0.08)
    over = "#000000" if level < 0 else "#ffffff"
    parts.append(f'<rect width="{SIZE}" height="{SIZE}" fill="{over}" fill-opacity="{abs(level):.3f}"/>')
    stops = [(0.0, "#000000", 0.0), (0.45, "#000000", 0.01), (0.72, "#000000", 0.08), (1.0, "#000000", 0.30)]
    return "".join(parts) + radial("vignette", (112, 112), 165, stops) + _sheet("vignette")


def _sheet(gradient: str) -> str:
    return f'<rect width="{SIZE}" height="{SIZE}" fill="url(#{gradient})"/>'
