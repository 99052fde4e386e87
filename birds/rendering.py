"""Rendering: a bird in its scene as pixels, with the part that each pixel shows."""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from birds.anatomy import Anatomy, anatomy
from birds.layers import numbered, painted
from birds.plan import PLANS, BodyPlan
from birds.plumage import plumage
from birds.pose import Pose
from birds.scene import SIZE, Scene
from birds.species import PARTS, Species, differing_parts
from finer_ray.errors import ConfigError

try:
    import resvg_py
except ModuleNotFoundError:
    raise ConfigError("birds are drawn by resvg-py, which is not installed: pip install 'finer_ray[dev]'") from None

Shapes = Literal["geometric_precision", "crisp_edges"]


@dataclass(frozen=True)
class Rendering:
    """One picture.

    Attributes:
        image: (H, W, 3) uint8, sRGB.
        parts: (H, W) uint8; 1 + index into PARTS of what a pixel shows, 0 where it shows no bird.
    """

    image: NDArray[np.uint8]
    parts: NDArray[np.uint8]


def render(species: Species, seed: int, size: int = SIZE) -> Rendering:
    """A bird of a species, `size` pixels square. Pose, scene and light come from the seed alone.

    Species of one genus stand alike under one seed: their pictures differ where `differing_mask` says.
    """
    body, scene = _stage(PLANS[species.genus], seed)
    layers = [*plumage(species, body, scene.sun, seed), *scene.before]
    image = _pixels(scene.behind + painted(layers) + scene.light, size, "geometric_precision")
    parts = _pixels(f'<rect width="{SIZE}" height="{SIZE}"/>' + numbered(layers), size, "crisp_edges")
    return Rendering(image, parts[..., 0].copy())


def render_empty(seed: int, size: int = SIZE) -> Rendering:
    """A scene without a bird."""
    _, scene = _stage(PLANS["reed finch"], seed)
    image = _pixels(scene.behind + painted([*scene.before]) + scene.light, size, "geometric_precision")
    return Rendering(image, np.zeros((size, size), dtype=np.uint8))


def object_mask(parts: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the bird is, (H, W), of a part map."""
    return parts > 0


def part_mask(parts: NDArray[np.uint8], *names: str) -> NDArray[np.bool_]:
    """Where any of these parts is seen, (H, W), of a part map."""
    return np.isin(parts, [1 + PARTS.index(name) for name in names])


def differing_mask(parts: NDArray[np.uint8], a: Species, b: Species) -> NDArray[np.bool_]:
    """Where two species differ, (H, W): the parts of `differing_parts`, of a part map of either."""
    return part_mask(parts, *differing_parts(a, b))


def _stage(plan: BodyPlan, seed: int) -> tuple[Anatomy, Scene]:
    body = anatomy(plan, Pose.sample(np.random.default_rng((seed, 0))))
    return body, Scene.sample(np.random.default_rng((seed, 1)), body.foot)


def _pixels(content: str, size: int, shapes: Shapes) -> NDArray[np.uint8]:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">{content}</svg>'
    png = resvg_py.svg_to_bytes(svg, width=size, height=size, shape_rendering=shapes, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))
