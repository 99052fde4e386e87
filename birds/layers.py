"""Layers: what a picture is painted from, back to front; the same layers give the part map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from birds.species import PARTS
from birds.svg import clip, fill, stroke


@dataclass(frozen=True)
class Layer:
    """A shape of one part, opaque.

    Attributes:
        part: of PARTS, or None for what hides the bird (a leaf before it).
        path: its outline, or where `width` is set, its middle line.
        paint: colour.
        bound: a path outside of which nothing of it shows, or None.
        detail: SVG drawn over it and only inside it.
        width: of a stroke, 0 for a filled shape.
    """

    part: str | None
    path: str
    paint: str
    bound: str | None = None
    detail: str = ""
    width: float = 0.0


@dataclass(frozen=True)
class Shade:
    """Light, shadow and texture over everything below, inside a bound. Never depends on the species."""

    content: str
    bound: str


def painted(layers: list[Layer | Shade]) -> str:
    """The layers in colour, as SVG."""
    return _grouped(layers, _painted, "c")


def numbered(layers: list[Layer | Shade]) -> str:
    """The part map, as SVG: greys of the value 1 + place in PARTS, 0 for what hides the bird."""
    return _grouped([layer for layer in layers if isinstance(layer, Layer)], _numbered, "n")


def _grouped(layers: Sequence[Layer | Shade], draw: Callable[[Any, str], str], prefix: str) -> str:
    """Neighbours of one bound are clipped together: clipped one by one, what lies below would show through the
    half-covered pixels of the edge."""
    groups = groupby(enumerate(layers), key=lambda pair: pair[1].bound)
    drawn = (
        (bound, "".join(draw(layer, f"{prefix}{place}") for place, layer in members), f"{prefix}g{number}")
        for number, (bound, members) in enumerate(groups)
    )
    return "".join(_bounded(content, bound, name) for bound, content, name in drawn)


def _painted(layer: Layer | Shade, name: str) -> str:
    if isinstance(layer, Shade):
        return layer.content
    return _shape(layer, layer.paint) + (_bounded(layer.detail, layer.path, name) if layer.detail else "")


def _numbered(layer: Layer, name: str) -> str:
    number = 0 if layer.part is None else 1 + PARTS.index(layer.part)
    return _shape(layer, f"#{number:02x}{number:02x}{number:02x}")


def _shape(layer: Layer, paint: str) -> str:
    return stroke(layer.path, paint, layer.width) if layer.width else fill(layer.path, paint)


def _bounded(content: str, bound: str | None, name: str) -> str:
    return content if bound is None else f'{clip(name, bound)}<g clip-path="url(#{name})">{content}</g>'
