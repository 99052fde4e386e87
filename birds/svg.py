"""SVG: paths through points, and the few elements that the birds are drawn with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """Local coordinates (x ahead, y down) placed in the scene.

    Attributes:
        origin: (x, y) of the scene.
        angle: radians by which x ahead is raised.
        scale: scene units of one local unit.
        mirrored: ahead is left.
    """

    origin: tuple[float, float]
    angle: float = 0.0
    scale: float = 1.0
    mirrored: bool = False

    def __call__(self, points: object) -> Points:
        """Local points (N, 2), or one (2,), in the scene."""
        local = np.asarray(points, dtype=np.float64) * self.scale
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned = local @ np.array([[cos, -sin], [sin, cos]])
        if self.mirrored:
            turned = turned * (-1.0, 1.0)
        placed: Points = turned + self.origin
        return placed


def closed(points: Points) -> str:
    """A smooth closed path through points (N, 2): the Catmull-Rom spline as cubic Béziers."""
    before, after, last = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    first, second = points + (after - before) / 6, after - (last - points) / 6
    curves = [f"C{_xy(a)} {_xy(b)} {_xy(c)}" for a, b, c in zip(first, second, after, strict=True)]
    return f"M{_xy(points[0])}{''.join(curves)}Z"


def curve(points: Points) -> str:
    """A smooth open path through points (N, 2)."""
    before = np.vstack([points[:1], points[:-1]])
    after, last = np.vstack([points[1:], points[-1:]]), np.vstack([points[2:], points[-1:], points[-1:]])
    first, second = points + (after - before) / 6, after - (last - points) / 6
    ends = zip(first[:-1], second[:-1], after[:-1], strict=True)
    return f"M{_xy(points[0])}" + "".join(f"C{_xy(a)} {_xy(b)} {_xy(c)}" for a, b, c in ends)


def oval(width: float, height: float, x: float = 0.0, y: float = 0.0, angle: float = 0.0, count: int = 16) -> Points:
    """Points (count, 2) on an ellipse with these half axes."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = np.stack([width * np.cos(turn), height * np.sin(turn)], 1)
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cos, -sin], [sin, cos]]) + (x, y)
    return turned


def fill(path: str, paint: str, opacity: float = 1.0, extra: str = "") -> str:
    """A filled path."""
    return f'<path d="{path}" fill="{paint}"{_opacity("fill", opacity)}{extra}/>'


def stroke(path: str, paint: str, width: float, opacity: float = 1.0, extra: str = "") -> str:
    """A stroked path with round ends."""
    return (
        f'<path d="{path}" fill="none" stroke="{paint}" stroke-width="{width:.2f}" stroke-linecap="round" '
        f'stroke-linejoin="round"{_opacity("stroke", opacity)}{extra}/>'
    )


def linear(name: str, start: object, end: object, stops: list[tuple[float, str, float]]) -> str:
    """A linear gradient in scene coordinates; stops are (offset, colour, opacity)."""
    (x1, y1), (x2, y2) = np.asarray(start), np.asarray(end)
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<linearGradient id="{name}" gradientUnits="userSpaceOnUse" {where}>{_stops(stops)}</linearGradient>'


def radial(name: str, centre: object, radius: float, stops: list[tuple[float, str, float]]) -> str:
    """A radial gradient in scene coordinates."""
    x, y = np.asarray(centre)
    where = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"'
    return f'<radialGradient id="{name}" gradientUnits="userSpaceOnUse" {where}>{_stops(stops)}</radialGradient>'


def clip(name: str, path: str) -> str:
    """A clip path."""
    return f'<clipPath id="{name}"><path d="{path}"/></clipPath>'


def blurred(content: str, deviation: float) -> str:
    """Elements out of focus. The blur's filter is `blur-D`, which `blur` defines."""
    return f'<g filter="url(#blur-{deviation:g})">{content}</g>'


def blur(deviation: float) -> str:
    """The filter that `blurred` refers to."""
    return (
        f'<filter id="blur-{deviation:g}" x="-0.4" y="-0.8" width="1.8" height="2.6" '
        f'color-interpolation-filters="sRGB"><feGaussianBlur stdDeviation="{deviation:g}"/></filter>'
    )


def _stops(stops: list[tuple[float, str, float]]) -> str:
    return "".join(f'<stop offset="{at:g}" stop-color="{c}" stop-opacity="{o:.3f}"/>' for at, c, o in stops)


def _opacity(kind: str, value: float) -> str:
    return "" if value == 1.0 else f' {kind}-opacity="{value:.3f}"'


def _xy(point: Points) -> str:
    return f"{point[0]:.2f},{point[1]:.2f}"
