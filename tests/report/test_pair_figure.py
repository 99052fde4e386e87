"""The picture of a pair: where its rings, its light and its close-ups lie. A whole one is drawn in tests/traits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.pipeline.export import export
from finer_ray.report.pair_figure import ENLARGED, _side, centre, close_up, pair_figure
from finer_ray.saliency.registration import Registration
from finer_ray.store.reading import open_export
from finer_ray.traits import Settings, Shown, Trait
from finer_ray.traits.run import both_ways
from tests.conftest import Members, photo, write_tar

HEAD = {"weight": (2, 96), "bias": (2,)}
SIZES = [(80, 64), (128, 128), (100, 60), (300, 200), (40, 90), (33, 33)]


def test_a_ring_lies_around_the_pixels_of_its_cell() -> None:
    here = Registration.stretched((32, 64), (4, 8))
    photo = np.zeros((ENLARGED * 32, ENLARGED * 64))
    # The cell of row 2, column 5 of 8 pixels each.
    photo[ENLARGED * 16 : ENLARGED * 24, ENLARGED * 40 : ENLARGED * 48] = 1
    down, across = (places.mean() for places in np.nonzero(photo))
    assert centre(Shown(0, 2 * 8 + 5, 1.0), 8, here) == pytest.approx((across, down))


def test_close_ups_are_squares_inside_the_photo() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(close_up(photo, (30, 20), 10), photo[15:25, 25:35])
    np.testing.assert_array_equal(close_up(photo, (1, 39), 10), photo[30:, :10])
    assert close_up(photo, (30, 20), 100).shape == (40, 40, 3)


def test_rings_lie_in_photos_of_all_sizes_and_names_are_no_formulas(tmp_path: Path, job: Callable[..., Config]) -> None:
    head = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in HEAD.items()}
    save_file(head, tmp_path / "head.safetensors")
    members: Members = [(f"p{place}.jpg", photo(place, size)) for place, size in enumerate(SIZES)]
    model: dict[str, Any] = {"head": str(tmp_path / "head.safetensors"), "classes": ["a $x^{", "b $\\frac$"]}
    config = job(
        str(write_tar(tmp_path / "a.tar", members)),
        model={**model, "image_size": 128, "resize": "native"},
        saliency={"references": 1, "registration": "stretch"},
        metrics={"deletion": False, "drops": False},
    )
    export(config)
    made = open_export(config.output.url)
    found = both_ways(made, "0", "1", Settings(resamples=0))
    # One way, for the time that it takes.
    pair_figure(made, [trait for trait in found if trait.kind == "pair"][:1], tmp_path / "pair.png")
    assert (tmp_path / "pair.png").stat().st_size > 10_000
    shapes = set()
    for trait in found:
        if trait.kind == "pair" and trait.cells:
            side = _side(made, trait, gamma=1.0)
            assert side.lit.shape == side.photos[0].shape[:2]
            for seen, (x, y) in zip(side.photos, side.centres, strict=True):
                shapes.add(seen.shape)
                assert 0 <= x < seen.shape[1]
                assert 0 <= y < seen.shape[0]
    assert len(shapes) > 1

    # One photo has become another; then all are gone.
    first = next(trait for trait in found if trait.kind == "pair" and len(trait.cells) > 1)
    keys = dict(zip(made.images["row"].to_pylist(), made.images["key"].to_pylist(), strict=True))
    changed = [(f"x{name}" if name == f"{keys[first.cells[0].row]}.jpg" else name, body) for name, body in members]
    write_tar(tmp_path / "a.tar", changed)
    side = _side(made, first, gamma=1.0)
    assert side.trait.cells == first.cells[1:]
    assert len(side.photos) == len(side.centres) == len(first.cells) - 1
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ExportError, match="cannot be read again"):
        _side(made, first, gamma=1.0)


def test_without_a_trait_there_is_nothing_to_draw(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ExportError, match="no image of either class"):
        pair_figure(None, [Trait("shared", 0, 1, rank=1)], tmp_path / "none.png")  # type: ignore[arg-type]
