"""Photos of their own sizes (`model.resize: native`), and padded ones, from the shard to the report."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from finer_ray.config.schema import Config
from finer_ray.images.decode import Decoded
from finer_ray.metrics.localisation import localisation
from finer_ray.models import build_classifier
from finer_ray.pipeline import explaining
from finer_ray.pipeline.export import export
from finer_ray.pipeline.targets import saliency_spec
from finer_ray.report.contact_sheet import contact_sheet
from finer_ray.report.image_figure import draw_image
from finer_ray.report.photos import read_rows
from finer_ray.report.site import write_report
from finer_ray.saliency import explain
from finer_ray.saliency.registration import draw
from finer_ray.store.grids import own_grids
from finer_ray.store.reading import Export, open_export
from finer_ray.store.verify import verify_export
from finer_ray.studies.sweep import sweep_table
from tests.conftest import Members, photo, write_tar

Job = Callable[..., Config]
# (width, height): four are alike, two above the bound, and two smaller than a patch or two.
SIZES = [(80, 64), (200, 100), (100, 200), (80, 64), (30, 30), (128, 128), (80, 64), (500, 20), (10, 10), (80, 64)]
BACKBONES = ["timm:test_resnet", "timm:test_vit"]


def mixed(labels: bool = True) -> Members:
    """Photos of many aspects, with boxes, and between them one that is none and one that is cut off."""
    members: Members = []
    for place, (width, height) in enumerate(SIZES):
        note = {"label": place if labels else None, "box_xyxy": [1, 1, width * 0.6, height * 0.7]}
        members += [(f"p{place}.jpg", photo(place, (width, height))), (f"p{place}.json", json.dumps(note).encode())]
    cut = photo(99, (80, 64))
    return [*members[:8], ("bad.jpg", b"no photo"), ("cut.jpg", cut[: len(cut) // 2]), *members[8:]]


def native(job: Job, tar: Path, name: str, backbone: str = BACKBONES[0], **sections: Any) -> Export:
    """An export below a bound of 128 pixels."""
    config = job(
        str(tar),
        model={"backbone": backbone, "image_size": 128, "resize": "native"},
        output={"url": str(tar.parent / name), "rows_per_unit": 16, "rows_per_chunk": 4},
        **sections,
    )
    export(config)
    return open_export(config.output.url)


def photos_of(made: Export) -> dict[int, Decoded]:
    return dict(read_rows(made, made.images["row"].to_pylist(), region=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_photo_is_explained_at_its_own_size(backbone: str, tmp_path: Path, job: Job) -> None:
    made = native(job, write_tar(tmp_path / "a.tar", mixed()), "out", backbone)
    assert verify_export(made.folder.url) == []
    assert made.failures["key"].to_pylist() == ["bad", "cut"]
    config = Config.model_validate(made.manifest.config)
    model = build_classifier(config.model)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.transform.mean, model.transform.std))
    step = 16 if backbone == "timm:test_vit" else 32
    metrics = {(line["row"], line["map"]): line["localisation"] for line in made.metrics.to_pylist()}
    shapes, registration = set(), made.manifest.layout.registration
    for line, (row, decoded) in zip(made.images.to_pylist(), photos_of(made).items(), strict=True):
        shape = decoded.image.shape[:2]
        shapes.add(shape)
        assert (
            (line["input_height"], line["input_width"]) == shape == model.transform.shape(line["width"], line["height"])
        )
        assert line["view"] == [0, 0, line["width"], line["height"]]
        images = (torch.tensor(decoded.image).permute(2, 0, 1)[None] / 255 - mean) / std
        alone = explain(model, images, saliency_spec(config, model))
        height, width = shape[0] // step, shape[1] // step
        assert alone.maps.shape[2:] == (height, width)
        assert line["target"] == alone.target
        np.testing.assert_allclose(line["logit"], alone.logits[0, line["target"]], rtol=1e-4, atol=1e-5)
        # Halves lose 2^-11 of the maximum, and another order of sums a little.
        basis = made.basis([row])[0]
        np.testing.assert_allclose(
            basis[:, :height, :width], alone.basis[0], rtol=0, atol=6e-4 * float(alone.basis.abs().max())
        )
        for place, name in enumerate(made.manifest.layout.maps):
            found, tolerance = made.maps([row], name)[0], 6e-4 * float(alone.maps[0, place].max()) + 1e-12
            np.testing.assert_allclose(found[:height, :width], alone.maps[0, place], rtol=0, atol=tolerance)
            # Beyond its own grid there is nothing; brought to the photo's size, nothing of that is seen.
            assert np.isnan(found[height:]).all()
            assert np.isnan(found[:, width:]).all()
            large = draw(alone.maps[0, place], (90, 70), registration, shape)
            np.testing.assert_allclose(made.maps([row], name, size=(90, 70))[0], large, rtol=0, atol=tolerance)
            share = localisation(alone.maps[:, [place]], torch.from_numpy(decoded.region)[None], registration)
            np.testing.assert_allclose(metrics[row, name] or np.nan, share[0, 0], rtol=2e-3)
    assert len(shapes) > 5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_batches_of_a_size_are_as_single_photos(
    backbone: str, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All methods and metrics that put masked images through the model, too."""
    sizes: list[tuple[int, ...]] = []

    def noted(model: Any, images: torch.Tensor, *rest: Any) -> Any:
        sizes.append(tuple(images.shape))
        return explain(model, images, *rest)

    monkeypatch.setattr(explaining, "explain", noted)
    tar = write_tar(tmp_path / "a.tar", mixed())
    asked: dict[str, Any] = {
        "saliency": {
            "maps": ["gradcam", "finer_layercam", "finer_scorecam", "finer_rise", "finer_mask"],
            "rise": {"masks": 5},
            "mask": {"steps": 2},
        },
        "metrics": {"deletion": True, "insertion": True, "drops": True, "steps": 2},
    }
    together = native(job, tar, "together", backbone, **asked, compute={"batch_size": 16})
    groups, sizes = sizes, []
    alone = native(job, tar, "alone", backbone, **asked, compute={"batch_size": 1})
    # The four photos of 80 x 64 went together, with the place of the one that is cut off; nothing else is made twice.
    assert max(count for count, *_ in groups) == 5
    assert sum(count for count, *_ in groups) - 1 == len(sizes) == len(SIZES)
    rows = together.images["row"].to_pylist()
    assert together.images["target"].equals(alone.images["target"])
    for name in together.manifest.layout.maps:
        ours, theirs = (of.maps(rows, name) for of in (together, alone))
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-3 * float(np.nanmax(theirs)))
    for name in ("localisation", "deletion_auc", "insertion_auc", "relative_drop_10"):
        mine, others = (of.metrics[name].to_numpy(zero_copy_only=False).astype(float) for of in (together, alone))
        np.testing.assert_allclose(mine, others, atol=1e-4)


def test_rows_that_fail_do_not_change_a_bit_of_the_others(tmp_path: Path, job: Job) -> None:
    """A photo whose header tells its size keeps its place in its batch, whatever else is wrong with it."""
    asked: dict[str, Any] = {"saliency": {"target": "label"}, "input": {"max_failures": 1.0}}
    clean = native(job, write_tar(tmp_path / "clean" / "a.tar", mixed()), "out", **asked)
    members = [
        (name, body.replace(b'"label": 3', b'"label": 5000').replace(b'"label": 6', b'"label": -1'))
        for name, body in mixed()
    ]
    at = [name for name, _ in members].index("p0.jpg")
    members[at] = ("p0.jpg", members[at][1][:-200])
    made = native(job, write_tar(tmp_path / "wrong" / "a.tar", members), "out", **asked)
    assert sorted(made.failures["key"].to_pylist()) == ["bad", "cut", "p0", "p3", "p6"]
    rows = made.images["row"].to_pylist()
    for name in made.manifest.layout.shapes():
        np.testing.assert_array_equal(made.tensors[name][:][rows], clean.tensors[name][:][rows], err_msg=name)


def test_a_photo_of_one_cell_stops_no_job(tmp_path: Path, job: Job) -> None:
    """A thumbnail is as small as a cell, also where the layer is cut by hooks."""
    tar = write_tar(tmp_path / "a.tar", mixed())
    config = job(
        str(tar),
        model={"backbone": BACKBONES[0], "image_size": 128, "resize": "native", "cam_layer": "layer4"},
        output={"url": str(tmp_path / "out"), "rows_per_unit": 16, "rows_per_chunk": 4},
    )
    export(config)
    made = open_export(config.output.url)
    assert made.images.num_rows == len(SIZES)
    assert [1, 1] in own_grids(made.maps(made.images["row"].to_pylist(), "gradcam")).tolist()


def test_several_targets_of_photos_of_their_own_sizes(tmp_path: Path, job: Job) -> None:
    """Verified, and shown in reports by the first one."""
    made = native(job, write_tar(tmp_path / "a.tar", mixed()), "out", saliency={"target": {"top": 2}})
    assert verify_export(made.folder.url) == []
    row = made.images["row"].to_pylist()[0]
    page = (write_report(made, tmp_path / "report").parent / "images" / f"{row}.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    values = np.frombuffer(base64.b64decode(data["maps"][0]["values"]), "<f2").reshape(data["grid"])
    whole = made.maps([row], made.manifest.layout.maps[0])[0]
    expected = whole[: data["grid"][0], : data["grid"][1]]
    np.testing.assert_allclose(values * np.float32(data["maps"][0]["scale"]), expected, rtol=1e-6)
    array: Any = zarr.open_group(f"{made.folder.url}/saliency.zarr", mode="r+")["maps"]
    array[row, 1, 0, 0, 0] = np.nan
    assert verify_export(made.folder.url) == [f"maps: rows not written or not finite: [{row}]"]


def test_damage_of_cells_beyond_a_grid_is_found(tmp_path: Path, job: Job) -> None:
    made = native(job, write_tar(tmp_path / "a.tar", mixed()), "out")
    stored: Any = zarr.open_group(f"{made.folder.url}/saliency.zarr", mode="r+")["maps"]
    values = stored[:]
    grids = own_grids(values[:, 0])
    row = int(np.flatnonzero((grids[:, 0] == 2) & (grids[:, 1] == 2))[0])
    values[row, 0, 3, 3] = 1
    values[row + 2, 0, 1, 1] = np.nan
    stored[:] = values
    assert verify_export(made.folder.url) == [f"maps: rows not written or not finite: [{row}, {row + 2}]"]


def test_reports_and_figures_show_each_photo_in_its_own_aspect(tmp_path: Path, job: Job) -> None:
    made = native(job, write_tar(tmp_path / "a.tar", mixed()), "out")
    folder = write_report(made, tmp_path / "report").parent
    decoded = photos_of(made)
    for row, found in decoded.items():
        page = (folder / "images" / f"{row}.html").read_text()
        data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
        height, width = found.image.shape[:2]
        assert data["size"] == [height, width]
        assert data["grid"] == [height // 32, width // 32]
        assert f'width="{width}" height="{height}"' in page
        for kept, count in ((data["maps"][0], 1), (data["basis"], 1 + made.manifest.layout.references)):
            values = np.frombuffer(base64.b64decode(kept["values"]), "<f2")
            assert values.size == count * (height // 32) * (width // 32)
            assert np.isfinite(values).all()
        with Image.open(folder / "images" / f"{row}-map.jpg") as drawn:
            assert drawn.size == (width, height)
    rows = list(decoded)
    contact_sheet(made, rows[:4], tmp_path / "sheet.png")
    assert draw_image(made, rows[1], tmp_path / "one.png", gammas=[2.0]) == ""
    for name in ("sheet.png", "one.png"):
        with Image.open(tmp_path / name) as drawn:
            assert len(set(drawn.convert("L").resize((50, 50)).tobytes())) > 20


def test_the_gamma_sweep_is_of_each_photos_own_grid(tmp_path: Path, job: Job) -> None:
    made = native(job, write_tar(tmp_path / "a.tar", mixed()), "out")
    lines = sweep_table(made, [0.0, 0.6]).to_pylist()
    swept = {(line["row"], line["gamma"]): line["localisation"] for line in lines}
    known = {(line["row"], line["map"]): line["localisation"] for line in made.metrics.to_pylist()}
    for (row, name), share in known.items():
        again = swept[row, 0.0 if name == "gradcam" else 0.6]
        if share is not None and again is not None:
            assert again == pytest.approx(share, abs=2e-3)
    assert len(lines) == 2 * len(SIZES)


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "open_clip"])
def test_padding_is_what_padding_by_hand_gives(backbone: str, tmp_path: Path, job: Job, clip: str) -> None:
    """Photos padded beforehand and seen as they are give the same bytes; timm's borders are grey, open_clip's black."""
    members, ready = [], []
    model: dict[str, Any] = {"backbone": backbone, "image_size": 64}
    if backbone == "open_clip":
        model = {"backbone": clip, "image_size": None, "head": "none", "classes": ["a", "b"]}
    grey = (128, 128, 128) if backbone.startswith("timm") else (0, 0, 0)
    for place, size in enumerate([(100, 50), (50, 100), (64, 64), (33, 77)]):
        image = Image.open(io.BytesIO(photo(place, size, "PNG")))
        scale = 64 / max(size)
        small = image.resize((round(size[0] * scale), round(size[1] * scale)), resample(backbone))
        padded = Image.new("RGB", (64, 64), grey)
        padded.paste(small, ((64 - small.width) // 2, (64 - small.height) // 2))
        buffer = io.BytesIO()
        padded.save(buffer, "PNG")
        members.append((f"p{place}.png", photo(place, size, "PNG")))
        ready.append((f"p{place}.png", buffer.getvalue()))

    def exported(name: str, given: Members, resize: str) -> Export:
        tar = write_tar(tmp_path / name / "a.tar", given)
        crop = {"crop_pct": 1.0} if resize == "shortest" else {}
        config = job(str(tar), model={**model, "resize": resize, **crop}, output={"url": str(tmp_path / f"{name}-out")})
        export(config)
        return open_export(config.output.url)

    ours, theirs = exported("raw", members, "pad"), exported("ready", ready, "shortest")
    assert ours.images["view"].to_pylist()[0] == [0, -25, 100, 75]
    assert ours.images["input_width"].to_pylist() == [64] * 4
    for name in ours.manifest.layout.shapes():
        np.testing.assert_array_equal(ours.tensors[name][:], theirs.tensors[name][:], err_msg=name)


def resample(backbone: str) -> Image.Resampling:
    return Image.Resampling.BICUBIC if backbone == "open_clip" else Image.Resampling.BILINEAR
