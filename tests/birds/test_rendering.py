"""Renderings: the same seed gives the same pixels, and siblings differ exactly where the masks say."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from birds.mark import marked, pattern
from birds.rendering import Rendering, differing_mask, object_mask, part_mask, render
from birds.species import PARTS, SPECIES, VARIED, Species, differing_parts, siblings

# Drawing takes half a minute, and is no part of the package.
pytestmark = pytest.mark.slow

PAIRS = [(a, b) for a, b in combinations(SPECIES, 2) if a.genus == b.genus]


@pytest.fixture(scope="module")
def album() -> list[Rendering]:
    """Two pictures of each species, each with its own seed."""
    return [render(species, 100 + 24 * turn + place, 112) for turn in range(2) for place, species in enumerate(SPECIES)]


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and the pixels around it, which antialiasing may touch."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3))) > 0


def test_a_seed_gives_the_same_pixels_and_another_one_does_not() -> None:
    first, again, other = (render(SPECIES[5], seed, 96) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.parts, again.parts)
    assert (first.image != other.image).mean() > 0.5
    assert first.image.shape == (96, 96, 3)
    assert first.image.dtype == first.parts.dtype == np.uint8
    assert first.parts.shape == (96, 96)
    assert first.parts.max() <= len(PARTS)


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=lambda species: species.name)
def test_siblings_differ_inside_the_mask_and_nowhere_else(a: Species, b: Species) -> None:
    changed_share = []
    for seed in (0, 1):
        one, two = render(a, seed), render(b, seed)
        np.testing.assert_array_equal(one.parts, two.parts)
        mask = differing_mask(one.parts, a, b)
        change = np.abs(one.image.astype(int) - two.image.astype(int)).max(2)
        # A tip thinner than half a pixel tints it and is in no part map.
        stray = change[~grown(mask)]
        assert stray.max() <= 8
        assert (stray > 0).sum() <= 3
        for part in differing_parts(a, b):
            inside = part_mask(one.parts, part)
            changed_share.append((change[inside] > 12).mean() if inside.any() else 1.0)
    # A pattern covers its part by halves; a colour covers it all, but for the gape of the bill, say.
    assert min(changed_share) > (0.08 if "breast" in differing_parts(a, b) else 0.7)


def test_every_varied_part_is_seen_in_most_pictures(album: list[Rendering]) -> None:
    for part in VARIED:
        areas = np.array([part_mask(rendering.parts, part).mean() for rendering in album])
        assert (areas > 0.0005).mean() > 0.9, part
    objects = np.array([object_mask(rendering.parts).mean() for rendering in album])
    assert ((objects > 0.05) & (objects < 0.45)).all()


def test_birds_lie_inside_the_picture(album: list[Rendering]) -> None:
    for rendering in album:
        edge = np.concatenate([rendering.parts[0], rendering.parts[-1], rendering.parts[:, 0], rendering.parts[:, -1]])
        assert not edge.any()


def test_masks_follow_from_the_part_map(album: list[Rendering]) -> None:
    for place, rendering in enumerate(album):
        species = SPECIES[place % 24]
        every = np.zeros_like(rendering.parts, dtype=bool)
        for part in PARTS:
            mask = part_mask(rendering.parts, part)
            assert not (mask & every).any()
            every |= mask
        np.testing.assert_array_equal(every, object_mask(rendering.parts))
        for other in siblings(species):
            expected = np.isin(rendering.parts, [PARTS.index(part) + 1 for part in differing_parts(species, other)])
            np.testing.assert_array_equal(differing_mask(rendering.parts, species, other), expected)


def test_colours_stand_where_the_part_map_says() -> None:
    """By hue alone, from the pixels: red bills are red, yellow ones yellow, in every light."""
    for species in SPECIES[:4]:
        for seed in range(6):
            rendering = render(species, seed)
            red, green, blue = (rendering.image[part_mask(rendering.parts, "bill")].mean(0) / 255).tolist()
            assert red > green > blue - 0.12
            assert (green / red > 0.62) == (species.parts["bill"] == "yellow")


def test_size_changes_the_sampling_and_nothing_else() -> None:
    small, large = render(SPECIES[9], 11, 112), render(SPECIES[9], 11, 224)
    halved = large.image.reshape(112, 2, 112, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 2.5
    assert (small.parts == large.parts[::2, ::2]).mean() > 0.95


def test_what_the_seeds_draw_stays_as_it_is() -> None:
    """The shipped model was trained on these pictures; part maps stand for them."""
    parts = np.stack([render(species, 7, 64).parts for species in SPECIES[::4]])
    assert hashlib.sha256(np.ascontiguousarray(parts)).hexdigest()[:16] == "1e3dcf8c6e363464"


def test_marks_tell_classes_apart_and_hide_what_is_below() -> None:
    patterns = [pattern(label) for label in range(24)]
    assert min((a != b).sum() for a, b in combinations(patterns, 2)) >= 3
    before = render(SPECIES[2], 5, 112)
    after = marked(before, 2)
    assert not after.parts[:11, :11].any()
    np.testing.assert_array_equal(after.image[11:], before.image[11:])
    np.testing.assert_array_equal(after.image[:, 11:], before.image[:, 11:])
    assert len(np.unique(after.image[:11, :11].reshape(-1, 3), axis=0)) <= 2
    np.testing.assert_array_equal(after.image[1:11:4, 1:11:4, 0] > 128, pattern(2))
