"""The package's birds are those that `python -m birds` draws now. If not: see birds/README.md."""

import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from birds.shards import write_birds

pytestmark = pytest.mark.slow
DEMO = Path(str(resources.files("finer_ray.demo")))


def pixels(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body))).astype(int)


def test_the_packed_birds_are_what_is_drawn_now(tmp_path: Path) -> None:
    write_birds(tmp_path / "birds", "test", per_class=2)
    assert {path.name for path in (DEMO / "birds").iterdir()} == {path.name for path in (tmp_path / "birds").iterdir()}
    for path in (DEMO / "birds").glob("*.json"):
        assert path.read_text() == (tmp_path / "birds" / path.name).read_text()
    same(DEMO / "birds", tmp_path / "birds", 48)


def test_the_packed_finches_are_others_of_their_genus(tmp_path: Path) -> None:
    write_birds(tmp_path, "test", per_class=10, skipped=2, genus="reed finch")
    same(DEMO / "finches", tmp_path, 40)


def same(one: Path, other: Path, count: int) -> None:
    packed, drawn = (
        list(webdataset.WebDataset(str(next(place.glob("*.tar"))), shardshuffle=False)) for place in (one, other)
    )
    assert len(packed) == count
    for ours, theirs in zip(packed, drawn, strict=True):
        assert ours["__key__"] == theirs["__key__"]
        assert json.loads(ours["json"]) == json.loads(theirs["json"])
        for name in ("mask.png", "parts.png", "differs.png"):
            np.testing.assert_array_equal(pixels(ours[name]), pixels(theirs[name]))
        # Versions of the JPEG library may differ in the last bit.
        assert np.abs(pixels(ours["jpg"]) - pixels(theirs["jpg"])).mean() < 0.5
