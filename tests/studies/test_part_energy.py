"""Part energy: shares of a map's energy by annotated part."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from finer_ray.errors import ExportError
from finer_ray.studies.part_energy import part_energy, part_study, part_table

GENERATOR = np.random.default_rng(4)
PARTS = np.array([[[1, 1, 0], [2, 3, 0]], [[0, 0, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 0]]], np.uint8)


def export(parts: np.ndarray = PARTS) -> Any:
    """Three images on a grid of 2 by 3, the last with one of its own of 2 by 2 and a map that is zero everywhere."""
    maps = {name: GENERATOR.random((3, 2, 3)) for name in ("gradcam", "finer_gradcam")}
    for values in maps.values():
        values[2, :, 2] = np.nan
    maps["gradcam"][2, :, :2] = 0
    layout = SimpleNamespace(maps=tuple(maps))
    return SimpleNamespace(
        images={"row": SimpleNamespace(to_numpy=lambda: np.array([0, 1, 2]))},
        part_names=("wing", "bill", "wing"),
        manifest=SimpleNamespace(layout=layout),
        parts=lambda rows: parts[rows],
        maps=lambda rows, name: maps[name][rows],
        known=maps,
    )


def test_a_line_per_image_map_and_part_that_it_shows() -> None:
    made = export()
    lines = part_table(made).to_pylist()
    expected = [(0, name, part) for name in made.known for part in ("wing", "bill")]
    expected += [(2, name, "bill") for name in made.known]
    assert [(line["row"], line["map"], line["part"]) for line in lines] == expected
    for line in lines:
        values, shown = made.known[line["map"]][line["row"]], PARTS[line["row"]]
        on = np.isin(shown, {"wing": [1, 3], "bill": [2]}[line["part"]])
        own = ~np.isnan(values)
        assert line["cells"] == pytest.approx((on & own).sum() / own.sum())
        if np.nansum(values) == 0:
            assert line["energy"] is None
        else:
            assert line["energy"] == pytest.approx(np.nansum(values[on]) / np.nansum(values))


@given(arrays(np.float64, (2, 3, 4), elements=st.floats(0, 1)), arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 5)))
def test_shares_add_up_to_what_lies_on_some_part(maps: np.ndarray, parts: np.ndarray) -> None:
    found = part_energy(maps, parts, 5)
    whole = maps.sum((1, 2))
    np.testing.assert_array_equal(np.isnan(found).all(1), whole == 0)
    some = whole > 0
    np.testing.assert_allclose(found[some].sum(1) * whole[some], (maps * (parts > 0)).sum((1, 2))[some], atol=1e-12)


def test_the_study_writes_both_and_says_what_lacks(tmp_path: Any) -> None:
    places = part_study(export(), tmp_path)
    assert [place.name for place in places] == ["parts.parquet", "parts.png"]
    assert pq.read_table(places[0]).num_rows == 6
    assert places[1].read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ExportError, match="no image of the export shows an annotated part"):
        part_table(export(np.zeros_like(PARTS)))
