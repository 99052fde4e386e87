"""Patches and parts through a whole job: what an export holds of them, and exports that were begun without."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError, InputError
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.pipeline.forecast import forecast
from finer_ray.report.photos import read_rows
from finer_ray.saliency.parts import cell_parts
from finer_ray.saliency.patches import patch_features
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import Members, photo, write_tar
from tests.pipeline.exports import many

Job = Callable[..., Config]
BAD = [("bad.jpg", b"no photo")]
SIZE = (80, 64)


def test_are_those_of_the_stored_basis_and_of_the_model(tmp_path: Path, job: Job) -> None:
    """Cells in the order of the evidence that the basis tells; features of the activations there."""
    tar = write_tar(tmp_path / "a.tar", [*many(4), *BAD, *many(3, 5)])
    config = job(str(tar), input={"max_failures": 0.5}, saliency={"maps": ["layercam"], "gamma": 0.9})
    export(config)
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    rows = made.images["row"].to_pylist()
    cells, features = made.patches(rows)
    assert (cells.dtype, cells.shape) == (np.int32, (7, 16))
    assert (features.dtype, features.shape) == (np.float32, (7, 16, 64))
    assert (cells[:, 0] >= 0).all()
    evidence = made.contrast(rows, 0.9).reshape(7, -1)
    for own, best in zip(evidence, cells, strict=True):
        there = best[best >= 0]
        assert len(there) == min(16, (own > 0).sum())
        # Halves lose 2^-11 of the maximum.
        assert (np.diff(own[there]) <= 2e-3 * own.max()).all()
    model = build_classifier(config.model)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.transform.mean, model.transform.std))
    images = torch.stack([torch.tensor(found.image).permute(2, 0, 1) for _, found in read_rows(made, rows, False)])
    activation = model.cut((images / 255 - mean) / std).activation
    expected = patch_features(activation, torch.from_numpy(cells.astype(np.int64)))
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-3)
    failed = made.failures["row"].to_pylist()
    assert (made.patches(failed)[0] == -1).all()
    assert np.isnan(made.patches(failed)[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_vit"])
def test_the_size_of_batches_does_not_matter(backbone: str, tmp_path: Path, job: Job) -> None:
    """Nor which rows fail."""
    tar = write_tar(tmp_path / "a.tar", [*many(3), *BAD, *many(4, 4)])
    found = []
    for size in (1, 7):
        config = job(
            str(tar),
            input={"max_failures": 0.5},
            model={"backbone": backbone},
            output={"url": str(tmp_path / str(size))},
            compute={"batch_size": size},
        )
        export(config)
        made = open_export(config.output.url)
        found.append(made.patches(made.images["row"].to_pylist()))
    (cells, features), (others, theirs) = found
    same = cells == others
    # Two whose evidence differs in the last bit alone may change places.
    assert same.mean() > 0.95
    np.testing.assert_allclose(features[same], theirs[same], rtol=0, atol=1e-3)


def test_cells_of_images_of_their_own_size_are_those_of_the_largest_grid(tmp_path: Path, job: Job) -> None:
    sizes = [(80, 64), (128, 64), (64, 128), (30, 30)]
    members: Members = []
    for place, size in enumerate(sizes):
        members += [(f"{place}.jpg", photo(place, size)), (f"{place}.parts.png", parts(place, size))]
    config = job(
        str(write_tar(tmp_path / "a.tar", members)),
        input={"fields": {"parts": "parts.png"}},
        model={"backbone": "timm:test_vit", "image_size": 128, "resize": "native"},
        output={"rows_per_unit": 16},
    )
    export(config)
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    cells, _ = made.patches(range(4))
    evidence, whole = made.contrast(range(4), 0.6), made.manifest.layout.grid
    assert whole == (8, 8)
    for row in range(4):
        there = cells[row][cells[row] >= 0]
        assert (evidence[row].ravel()[there] > 0).all(), "NaN beyond an image's own grid"
        # A part in every cell of the own grid, and none beyond it.
        np.testing.assert_array_equal(made.parts([row])[0] > 0, ~np.isnan(evidence[row]))


def parts(seed: int, size: tuple[int, int] = SIZE, low: int = 1, high: int = 4) -> bytes:
    """A mask of random ids from low to before high, (width, height)."""
    ids = np.random.default_rng(seed).integers(low, high, size[::-1], dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()


def test_parts_are_placed_by_the_registration_and_bad_masks_are_failures(tmp_path: Path, job: Job) -> None:
    masks = [parts(0), parts(1, low=0), None, parts(3, low=4, high=5), parts(4, (8, 8)), b"no mask", parts(6)]
    members: Members = []
    for place, mask in enumerate(masks):
        members.append((f"{place}.jpg", photo(place)))
        members += [] if mask is None else [(f"{place}.parts.png", mask)]
    (tmp_path / "names.txt").write_text("bill\nwing\ntail\n")
    asked = {"fields": {"parts": "parts.png"}, "part_names": str(tmp_path / "names.txt"), "max_failures": 1.0}
    config = job(
        str(write_tar(tmp_path / "a.tar", members)),
        input=asked,
        model={"resize": "squash", "crop_pct": 1.0},
        saliency={"target": 3},
    )
    assert forecast(config).trial_failures
    export(config)
    assert verify_export(config.output.url) == []
    made = open_export(config.output.url)
    assert made.part_names == ("bill", "wing", "tail")
    assert made.manifest.config["input"]["part_names"] == ["bill", "wing", "tail"]
    said = dict(zip(made.failures["key"].to_pylist(), made.failures["error"].to_pylist(), strict=True))
    assert set(made.failures["stage"].to_pylist()) == {"region"}
    assert said["3"] == "the part mask: a pixel has the id 4; there are parts 1 to 3, and 0 for none"
    assert said["4"] == "the part mask: 8x8 pixels, where the photo as displayed has 80x64"
    assert said["5"].startswith("the part mask: no image of a known format")
    for row, found in enumerate(made.parts(range(7))):
        ids = np.zeros((64, 64), np.uint8)
        if masks[row] is not None and str(row) not in said:
            image = Image.open(io.BytesIO(masks[row] or b"")).resize((64, 64), Image.Resampling.NEAREST)
            ids = np.asarray(image)
        np.testing.assert_array_equal(found, cell_parts(ids, found.shape, made.manifest.layout.registration))
    assert made.parts([0]).all()
    assert made.tensors["parts"].attrs["cell_stride"] == list(made.manifest.layout.registration.stride)  # type: ignore[union-attr]


def test_other_names_of_parts_are_another_config(tmp_path: Path, job: Job) -> None:
    tar = str(write_tar(tmp_path / "a.tar", [("a.jpg", photo(1)), ("a.parts.png", parts(1))]))
    prints = [
        job(tar, input={"fields": {"parts": "parts.png"}, "part_names": names}).fingerprint()
        for names in (None, ["a", "b", "c"], ["b", "a", "c"])
    ]
    assert len({job(tar).fingerprint(), *prints}) == 4
    config = job(tar, input={"fields": {"parts": "parts.png"}})
    export(config)
    assert open_export(config.output.url).part_names[:2] == ("1", "2")
    with pytest.raises(ExportError, match="another config"):
        export(job(tar, input={"fields": {"parts": "parts.png"}, "part_names": ["a", "b", "c"]}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"input": {"part_names": ["a"]}}, "part_names needs fields.parts"),
        ({"input": {"part_names": [], "fields": {"parts": "p"}}}, "part_names has 0 names"),
        ({"input": {"part_names": ["a"] * 256, "fields": {"parts": "p"}}}, "256 names; 1 to 255 are right"),
        ({"output": {"patches": -1}}, r"output\.patches"),
    ],
)
def test_wrong_configs_say_so_at_once(sections: dict[str, Any], said: str, job: Job) -> None:
    with pytest.raises(ConfigError, match=said):
        job("a.tar", **sections)


def test_files_of_names_that_are_none(tmp_path: Path, job: Job) -> None:
    (tmp_path / "many.json").write_text(json.dumps(["a"] * 256))
    for name, said in (("none.txt", "is no file"), ("many.json", "holds 256 names; 1 to 255 are right")):
        given = {"fields": {"parts": "parts.png"}, "part_names": str(tmp_path / name)}
        with pytest.raises(ConfigError, match=rf"^input\.part_names: .*{said}"):
            export(job("a.tar", input=given))


def test_of_a_folder_no_parts_are_read(tmp_path: Path, job: Job) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(photo(1))
    with pytest.raises(InputError, match=r"no part masks are read of a folder: leave out input\.fields\.parts"):
        export(job(str(tmp_path / "in"), input={"format": "folder", "fields": {"parts": "parts.png"}}))


def as_begun_before(out: Path) -> None:
    """An export without patches, as an earlier version wrote it."""
    file = out / "export.json"
    tree = json.loads(file.read_text())
    for section, key in (("output", "patches"), ("input", "part_names")):
        del tree["config"][section][key]
    del tree["config"]["input"]["fields"]["parts"], tree["layout"]["patches"], tree["layout"]["parts"]
    tree["config_fingerprint"] = parse_config(tree["config"]).fingerprint()
    file.write_text(json.dumps(tree))


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{}, {"patches": 0}])
def test_an_export_of_before_goes_on_without(asked: dict[str, Any], tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "in" / "a.tar", many(3))
    export(job(str(tmp_path / "in"), output={"patches": 0}))
    out = tmp_path / "out"
    as_begun_before(out)
    before = json.loads((out / "export.json").read_text())
    for shard in ("b", "c"):
        write_tar(tmp_path / "in" / f"{shard}.tar", many(2, 20))
        summary = export(job(str(tmp_path / "in"), output=asked))
        assert summary.new == 2
        assert any("goes on without" in note for note in summary.notes) == (not asked)
        assert json.loads((out / "export.json").read_text())["config_fingerprint"] == before["config_fingerprint"]
    assert verify_export(str(out)) == []
    made = open_export(str(out))
    assert made.images.num_rows == 7
    assert set(made.tensors.array_keys()) == {"maps", "maps_scale", "references", "basis", "basis_scale", "embedding"}
    with pytest.raises(ExportError, match=r"no patches: it was made with output\.patches: 0, or by a version"):
        made.patches([0])
    with pytest.raises(ExportError, match=r"no parts: its job read no part masks"):
        made.parts([0])
    with pytest.raises(ExportError, match="no parts"):
        _ = made.part_names
    with pytest.raises(ExportError, match=r"output\.patches not given there, 8 here"):
        export(job(str(tmp_path / "in"), output={"patches": 8}))


def test_an_export_keeps_the_number_that_it_began_with(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "in" / "a.tar", many(3))
    config = job(str(tmp_path / "in"), output={"patches": 5, "basis": False})
    export(config)
    write_tar(tmp_path / "in" / "b.tar", many(2, 20))
    export(config)
    made = open_export(config.output.url)
    assert made.patches([0])[0].shape == (1, 5)
    for other in ({}, {"patches": 0}):
        with pytest.raises(ExportError, match=r"output\.patches 5 there"):
            export(job(str(tmp_path / "in"), output={"basis": False, **other}))


def test_verify_finds_patches_without_cells_and_cells_without_patches(tmp_path: Path, job: Job) -> None:
    config = job(str(write_tar(tmp_path / "a.tar", many(5))))
    export(config)
    made = open_export(config.output.url)
    row = made.images["row"].to_pylist()[2]
    for name, value in (("patch_cells", -1), ("patches", np.nan)):
        shutil.copytree(tmp_path / "out", tmp_path / name)
        array: Any = zarr.open_group(str(tmp_path / name / "saliency.zarr"), mode="r+")[name]
        array[row] = value
        assert verify_export(str(tmp_path / name)) == [f"patches: rows not written or not finite: [{row}]"]
    array = zarr.open_group(str(tmp_path / "out" / "saliency.zarr"), mode="r+")["patch_cells"]
    array[7] = 3
    assert "patch_cells: rows written for no image: [7]" in verify_export(str(tmp_path / "out"))
