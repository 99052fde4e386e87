"""Registration through a whole job: measured once, kept in the export, used by metrics and readers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.metrics.localisation import localisation, pointing_hit
from finer_ray.models import classifier
from finer_ray.pipeline.export import export
from finer_ray.report.gamma_sweep import sweep_scores
from finer_ray.report.photos import read_rows
from finer_ray.saliency.registration import Registration, draw
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import write_tar
from tests.pipeline.exports import many

Job = Callable[..., Config]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Registration]:
    """What each measurement gives, in turn, instead of measuring."""
    figures = [Registration((-9.0, 21.5), (32.0, 32.0)), Registration((-8.75, 21.5), (32.0, 32.0))]
    given: list[Registration] = []

    def measure(*_: Any) -> Registration:
        given.append(figures[len(given)])
        return given[-1]

    monkeypatch.setattr(classifier, "measure", measure)
    return given


def test_the_driver_measures_once_and_all_follow_it(tmp_path: Path, job: Job, measured: list[Registration]) -> None:
    config = job(str(write_tar(tmp_path / "in" / "a.tar", many(10))))
    export(config)
    made = open_export(config.output.url)
    assert len(measured) == 1
    here = made.manifest.layout.registration
    assert here == measured[0]
    for name in ("maps", "basis"):
        assert made.tensors[name].attrs["cell_offset"] == [-9.0, 21.5]
        assert made.tensors[name].attrs["cell_stride"] == [32.0, 32.0]
    assert "cell_offset" not in made.tensors["embedding"].attrs

    rows = made.images["row"].to_pylist()
    region = np.stack([found.region for _, found in read_rows(made, rows, region=True)])
    maps = made.maps(rows, "finer_gradcam")
    ours = made.metrics.filter(np.array(made.metrics["map"]) == "finer_gradcam")
    expected = localisation(maps[:, None], region, here)[:, 0]
    np.testing.assert_allclose(ours["localisation"].to_numpy(), expected, atol=2e-3)
    assert ours["pointing_hit"].to_pylist() == pointing_hit(maps[:, None], region, here)[:, 0].astype(bool).tolist()
    stretched = localisation(maps[:, None], region)[:, 0]
    assert np.abs(expected - stretched).max() > 0.02, "this test could not fail"
    np.testing.assert_allclose(made.maps(rows, "finer_gradcam", (64, 64)), draw(maps, (64, 64), here), atol=1e-6)
    gamma = config.saliency.gamma
    np.testing.assert_allclose(made.contrast(rows, gamma, size=(64, 64)), draw(maps, (64, 64), here), atol=1e-2)
    swept = sweep_scores(made, rows, region, [gamma])["localisation"][:, 0]
    np.testing.assert_allclose(swept, expected, atol=5e-3)


def test_an_export_that_grows_keeps_the_figure_that_it_began_with(
    tmp_path: Path, job: Job, measured: list[Registration]
) -> None:
    """It is not measured again: machines differ in the last bits, and so perhaps by the rounding."""
    config = job(str(tmp_path / "in"))
    write_tar(tmp_path / "in" / "a.tar", many(3))
    export(config)
    write_tar(tmp_path / "in" / "b.tar", many(3, 20))
    export(config)
    assert len(measured) == 1
    assert open_export(config.output.url).manifest.layout.registration == measured[0]
    assert verify_export(config.output.url) == []


def test_stretched_nothing_is_measured_and_an_export_of_before_goes_on(
    tmp_path: Path, job: Job, measured: list[Registration]
) -> None:
    stretched = {"registration": "stretch"}
    config = job(str(tmp_path / "in"), saliency=stretched)
    write_tar(tmp_path / "in" / "a.tar", many(3))
    export(config)
    place = Path(config.output.url)
    # As it was before there was a choice.
    tree = json.loads((place / "export.json").read_text())
    del tree["config"]["saliency"]["registration"], tree["layout"]["registration"]
    (place / "export.json").write_text(json.dumps(tree))
    assert "cell_offset" not in (place / "saliency.zarr" / "maps" / "zarr.json").read_text()
    made = open_export(config.output.url)
    drawn = made.maps([0], "gradcam", (64, 64))
    np.testing.assert_array_equal(drawn, draw(made.maps([0], "gradcam"), (64, 64), None))

    write_tar(tmp_path / "in" / "b.tar", many(2, 20))
    with pytest.raises(ExportError, match=r"fingerprint is .*write saliency\.registration: stretch"):
        export(job(str(tmp_path / "in")))
    export(config)
    assert not measured
    assert open_export(config.output.url).images.num_rows == 5


def test_maps_in_the_photo_s_own_pixels(tmp_path: Path, job: Job, measured: list[Registration]) -> None:
    """80 x 64 photos of which the model sees the middle 64 x 64 of 80 x 64."""
    tar = write_tar(tmp_path / "a.tar", [*many(2), ("bad.jpg", b"no photo")])
    config = job(str(tar), model={"crop_pct": 1.0}, input={"max_failures": 0.5})
    export(config)
    made = open_export(config.output.url)
    whole = made.maps([1, 0], "gradcam", (64, 64))
    for placed, view in zip(made.maps([1, 0], "gradcam", place="photo"), whole, strict=True):
        assert placed.shape == (64, 80)
        assert placed.dtype == np.float32
        np.testing.assert_allclose(placed[:, 8:72], view, atol=1e-6)
        assert np.isnan(placed[:, :8]).all()
        assert np.isnan(placed[:, 72:]).all()
    for heat in made.maps([1, 0], "gradcam", place="photo", normalized=True):
        assert np.nanmin(heat) >= 0
        assert np.nanmax(heat) == 1
    assert made.maps([0], "gradcam", normalized=True).max() == 1
    with pytest.raises(ExportError, match="row 2 of the export holds no image"):
        made.maps([2], "gradcam", place="photo")
    with pytest.raises(ValueError, match="size"):
        made.maps([0], "gradcam", (8, 8), place="photo")  # type: ignore[call-overload]
