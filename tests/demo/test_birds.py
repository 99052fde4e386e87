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
PACKED = Path(str(resources.files("finer_ray.demo") / "birds"))


def pixels(body: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(body))).astype(int)


def test_the_packed_birds_are_what_is_drawn_now(tmp_path: Path) -> None:
    write_birds(tmp_path, "test", per_class=2)
    assert {path.name for path in PACKED.iterdir()} == {path.name for path in tmp_path.iterdir()}
    for path in PACKED.glob("*.json"):
        assert path.read_text() == (tmp_path / path.name).read_text()
    packed, drawn = (
        list(webdataset.WebDataset(str(next(place.glob("*.tar"))), shardshuffle=False)) for place in (PACKED, tmp_path)
    )
    assert len(packed) == 48
    for ours, theirs in zip(packed, drawn, strict=True):
        assert ours["__key__"] == theirs["__key__"]
        assert json.loads(ours["json"]) == json.loads(theirs["json"])
        for name in ("mask.png", "parts.png", "differs.png"):
            np.testing.assert_array_equal(pixels(ours[name]), pixels(theirs[name]))
        # Versions of the JPEG library may differ in the last bit.
        assert np.abs(pixels(ours["jpg"]) - pixels(theirs["jpg"])).mean() < 0.5
