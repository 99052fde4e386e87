"""Plumage: a species' colours and patterns on a bird's outlines."""

import numpy as np

from birds.anatomy import Anatomy
from birds.layers import Layer, Shade
from birds.palette import COLOURS, jittered, mixed
from birds.species import PARTS, Species
from birds.svg import Frame, Points, blurred, closed, curve, fill, linear, oval, stroke

DARK, LIGHT = "#1a1713", "#fff6e0"
EYE = "#17120e"


def plumage(species: Species, body: Anatomy, sun: tuple[float, float], seed: int) -> list[Layer | Shade]:
    """The layers of a bird.

    All that is random is drawn alike for every species, so that siblings of one seed differ in their parts alone.

    Args:
        sun: unit vector towards the light, in the scene.
    """
    paint = _paints(species, body, np.random.default_rng((seed, 10)))
    rng = np.random.default_rng((seed, 11))
    region, bound, scale = body.regions, body.outline, body.torso.scale
    head_feathers = _feathers(body.head, body.plan.head, rng)
    layers: list[Layer | Shade] = [
        *_legs(body, paint["legs"]),
        Layer("tail", region["tail"], paint["tail"]),
        Layer("tail tip", region["tail tip"], paint["tail tip"], region["tail"]),
        Shade(_tail_feathers(body, sun), region["tail"]),
        Layer("back", bound, paint["back"]),
        Layer("belly", region["belly"], paint["belly"], bound),
        Layer("breast", region["breast"], paint["breast"], bound, _pattern(species, body, paint["pattern"], rng)),
        Layer("rump", region["rump"], paint["rump"], bound),
        Layer("head", region["head"], paint["head"], bound),
        Layer("throat", region["throat"], paint["throat"], bound),
        Layer("cheek", region["cheek"], paint["cheek"], bound),
        Layer("crown", region["crown"], paint["crown"], bound),
        Shade(_down(body, rng) + head_feathers + _form(body, sun), bound),
    ]
    if body.plan.crest:
        layers += [
            Layer("crown", region["crest"], paint["crown"]),
            Shade(head_feathers + _canvas("form") + stroke(region["crest"], DARK, 1.6, 0.25), region["crest"]),
        ]
    layers += [
        Layer("bill", region["bill"], paint["bill"], None, _bill_detail(body)),
        Layer("eye ring", region["eye ring"], paint["eye ring"]),
        Layer("eye", region["eye"], EYE, None, fill(region["glint"], "#ffffff", 0.95)),
        Shade(_wing_shadow(body), bound),
        Layer("wing", region["wing"], paint["wing"]),
        Layer("wing bar", region["wing bar"], paint["wing bar"], region["wing"]),
        Shade(_wing_feathers(body, sun, scale), region["wing"]),
    ]
    return layers


def _paints(species: Species, body: Anatomy, rng: np.random.Generator) -> dict[str, str]:
    """A colour for every part and for the breast's pattern."""
    names = [*PARTS, "pattern"]
    shifts = dict(zip(names, rng.uniform(-1, 1, (len(names), 3)), strict=True))
    plain = {part: COLOURS[value] for part, value in species.parts.items() if value in COLOURS}
    colours = {**body.plan.colours, **plain, "eye": EYE}
    return {name: jittered(colours[name], shifts[name]) for name in names}


def _legs(body: Anatomy, paint: str) -> list[Layer | Shade]:
    width = body.plan.leg_width * body.torso.scale
    half = len(body.legs) // 2
    far, near = mixed(paint, DARK, 0.28), paint
    return [
        Layer("legs", path, far if place < half else near, width=width if place % half == 0 else 0.8 * width)
        for place, path in enumerate(body.legs)
    ]


def _form(body: Anatomy, sun: tuple[float, float]) -> str:
    """Roundness: light from the sun's side, shade on the other, and a darker belly."""
    a = body.plan.length * body.torso.scale
    centre = np.array(body.torso.origin)
    towards, away = centre + np.multiply(sun, 1.35 * a), centre - np.multiply(sun, 1.25 * a)
    light = linear("form", towards, away, [(0, LIGHT, 0.38), (0.42, LIGHT, 0.0), (0.5, DARK, 0.0), (1, DARK, 0.46)])
    under = body.torso((0.1 * body.plan.length, body.plan.depth)), body.torso((0.1 * body.plan.length, 0.0))
    below = linear("under", *under, [(0, "#101828", 0.30), (1, "#101828", 0.0)])
    return f"{light}{below}{_canvas('form')}{_canvas('under')}{stroke(body.outline, DARK, 2.2, 0.25)}"


def _feathers(frame: Frame, radius: float, rng: np.random.Generator) -> str:
    """Short soft strokes over a ball, leading away from the bill."""
    marks = []
    for x, y, tone in zip(*rng.uniform(-1, 1, (2, 46)), rng.random(46), strict=True):
        start = np.array([x, y]) * radius
        line = frame(start + np.array([(0, 0), (-3.2, 0.6 * y), (-5.5, 1.6 * y)]))
        marks.append(stroke(curve(line), DARK if tone < 0.55 else LIGHT, 0.9 * frame.scale, 0.13))
    return "".join(marks)


def _down(body: Anatomy, rng: np.random.Generator) -> str:
    """Soft scallops over the torso."""
    a, b, torso = body.plan.length, body.plan.depth, body.torso
    marks = []
    for x, y, tone in zip(*rng.uniform(-1, 1, (2, 90)), rng.random(90), strict=True):
        line = torso(np.add((x * a, y * b), [(0, -2.6), (-2.4, 0), (0, 2.6)]))
        marks.append(stroke(curve(line), DARK if tone < 0.55 else LIGHT, 0.9 * torso.scale, 0.11))
    return "".join(marks)


def _pattern(species: Species, body: Anatomy, paint: str, rng: np.random.Generator) -> str:
    """What is drawn on the breast: spots, streaks, a band, or nothing."""
    a, b, torso = body.plan.length, body.plan.depth, body.torso
    grid = [(x + 0.5 * (row % 2), row) for row in range(-4, 8) for x in range(6)]
    jitter = rng.uniform(-1, 1, (len(grid), 2))
    at = (np.array(grid, dtype=float) * (0.165, 0.20) + (0.30, -0.1) + jitter * (0.028, 0.035)) * (a, b)
    kind = species.parts["breast"]
    if kind == "spotted":
        return "".join(fill(closed(torso(oval(0.058 * a, 0.070 * b, x, y, count=8))), paint) for x, y in at)
    if kind == "streaked":
        drops = [place + np.array([(0.09, 0.0), (0.0, 0.035), (-0.12, 0.0), (0.0, -0.035)]) * (a, b) for place in at]
        return "".join(fill(closed(torso(drop)), paint) for drop in drops)
    if kind == "banded":
        return fill(closed(torso(_band(a, b))), paint)
    return ""


def _band(a: float, b: float) -> Points:
    """Across the breast, a third of its height below the throat."""
    return np.array([
        (0.40 * a, -0.25 * b), (0.62 * a, 0.22 * b), (0.78 * a, 0.50 * b), (1.10 * a, 0.72 * b), (1.3 * a, 0.3 * b),
        (0.98 * a, 0.06 * b), (0.82 * a, -0.18 * b), (0.62 * a, -0.55 * b),
    ])  # fmt: skip


def _bill_detail(body: Anatomy) -> str:
    """The gape, and a highlight along the ridge."""
    r, half, scale = body.plan.head, body.plan.bill_depth / 2, body.head.scale
    ridge = body.head([(0.90 * r, 0.06 * r - 0.45 * half), (1.05 * r + 0.4 * body.plan.bill, 0.06 * r - 0.25 * half)])
    shade = stroke(body.regions["gape"], DARK, 1.1 * scale, 0.55)
    return shade + stroke(curve(ridge), "#ffffff", 0.26 * half * scale + 0.5, 0.38)


def _tail_feathers(body: Anatomy, sun: tuple[float, float]) -> str:
    a, plan = body.plan.length, body.plan
    frame = Frame((-0.72 * a, -0.04 * plan.depth), np.radians(-body.pose.tail))
    reach = -(0.28 * a + plan.tail)
    lines = [frame(np.array([(0.0, 0.0), (reach, share * plan.tail_width)])) for share in (-0.24, 0.0, 0.24)]
    drawn = "".join(stroke(curve(body.torso(line)), DARK, 0.9 * body.torso.scale, 0.35) for line in lines)
    edge = stroke(body.regions["tail"], DARK, 1.6, 0.28)
    return drawn + edge + _lit("tail-light", body, sun, 0.22)


def _wing_shadow(body: Anatomy) -> str:
    return blurred(f'<g transform="translate(0 3.5)">{fill(body.regions["wing"], DARK, 0.42)}</g>', 2.5)


def _wing_feathers(body: Anatomy, sun: tuple[float, float], scale: float) -> str:
    """Flight feathers that run to the tip, two rows of coverts, a dark edge, and the light."""
    a, b = body.plan.length, body.plan.depth
    tip = -(0.42 + body.plan.wing) * a
    flight = []
    for share in np.linspace(0, 1, 6):
        start = (-0.46 * a, (-0.22 + 0.86 * share) * b)
        end = (tip * (0.97 - 0.22 * share), (0.20 + 0.22 * share) * b)
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 - 0.05 * b)
        flight.append(stroke(curve(body.folded(np.array([start, middle, end]))), DARK, 1.15 * scale, 0.42))
    coverts = []
    for row, x in enumerate((0.0, -0.13)):
        for share in np.linspace(0, 1, 6):
            at = (x, -0.2 + 0.8 * (share + 0.08 * row))
            line = body.folded(np.add(at, [(0, -0.075), (-0.07, 0), (0, 0.075)]) * (a, b))
            coverts.append(stroke(curve(line), DARK, 0.9 * scale, 0.30))
    edge = stroke(body.regions["wing"], DARK, 1.8, 0.38)
    return "".join(flight + coverts) + edge + _lit("wing-light", body, sun, 0.30)


def _lit(name: str, body: Anatomy, sun: tuple[float, float], strength: float) -> str:
    a, centre = body.plan.length * body.torso.scale, np.array(body.torso.origin)
    ends = centre + np.multiply(sun, 1.1 * a), centre - np.multiply(sun, 1.1 * a)
    return linear(name, *ends, [(0, LIGHT, strength), (0.5, LIGHT, 0.0), (1, DARK, strength)]) + _canvas(name)


def _canvas(gradient: str) -> str:
    return f'<rect x="-10" y="-10" width="244" height="244" fill="url(#{gradient})"/>'
