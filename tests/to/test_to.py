"""Exports for other tools: what was planted is where each tool's own form says; nothing of others is touched."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import validate
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.store.reading import Export
from finer_ray.to import run
from finer_ray.to.labelstudio import brush_code
from finer_ray.to.region import region_of, runs
from finer_ray.to.run import write_for
from finer_ray.to.tools import TOOLS
from tests.report.site.exports import make

HERE = Path(__file__).parent
KEYS = ["../../evil", "Ü x", "ü X", "con", "a" * 90]
WIDTH, HEIGHT = 80, 60
# Of the planted map, in a photo's pixels: x, y, width, height.
BOX = (30, 10, 25, 20)


def planted(export: Export) -> np.ndarray:
    """A map that is high in BOX, and 0.4 of that in a smaller place; the model did not see the photo's right edge."""
    heat = np.zeros((HEIGHT, WIDTH), np.float32)
    x, y, width, height = BOX
    heat[y : y + height, x : x + width] = 3
    heat[50:58, 2:12] = 1.2
    heat[:, 75:] = np.nan
    return heat


class Planted(Export):
    """An export whose maps are all the planted one, but for row 1, which is zero."""

    def maps(self, rows: Sequence[int], *_: Any, **__: Any) -> Any:
        return [planted(self) * (row != 1) for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("to"), images=5, key=KEYS.__getitem__, embedding=3)


@pytest.fixture(scope="module")
def folders(made: Export, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The export with planted maps, for every tool."""
    root = tmp_path_factory.mktemp("tools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finer_ray.to.run.Held.maps", Planted.maps)
        for name, tool in TOOLS.items():
            write_for(made, tool, root / name)
    return {name: root / name for name in TOOLS}


@pytest.mark.parametrize(
    ("tool", "file"),
    [("png", "index"), ("coco", "annotations"), ("fiftyone", "samples"), ("labelstudio", "tasks")],
)
def test_files_are_of_the_tools_form(folders: dict[str, Path], tool: str, file: str) -> None:
    schema = json.loads((HERE / f"{tool}.schema.json").read_text())
    validate(json.loads((folders[tool] / f"{file}.json").read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize("tool", TOOLS)
def test_maps_and_photos_lie_under_their_rows_names(folders: dict[str, Path], made: Export, tool: str) -> None:
    folder = folders[tool]
    maps = folder / TOOLS[tool].maps
    assert sorted(file.name for file in maps.iterdir()) == [f"{row:06d}.png" for row in range(5)]
    grey = np.asarray(Image.open(maps / "000000.png"))
    heat = np.nan_to_num(planted(made))
    assert grey.dtype == np.uint8
    np.testing.assert_allclose(grey * (3 / 255), heat, atol=0.5 * 3 / 255)
    assert not np.asarray(Image.open(maps / "000001.png")).any()
    if not TOOLS[tool].photos:
        assert not (folder / "photos").exists()
        return
    with tarfile.open(made.images["shard"][0].as_py()) as shard:
        for row, key in enumerate(KEYS):
            body = shard.extractfile(f"{key}.jpg")
            assert body is not None
            assert (folder / "photos" / f"{row:06d}.jpg").read_bytes() == body.read()
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted(TOOLS)


def test_pycocotools_reads_the_planted_box(folders: dict[str, Path], made: Export) -> None:
    coco = COCO(str(folders["coco"] / "annotations.json"))
    found = {note["image_id"]: note for note in coco.loadAnns(coco.getAnnIds())}
    assert sorted(found) == [0, 2, 3, 4]
    assert [image["key"] for image in coco.loadImgs(range(5))] == KEYS
    x, y, width, height = BOX
    for row, note in found.items():
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[y : y + height, x : x + width] = 1
        np.testing.assert_array_equal(coco.annToMask(note), mask)
        assert (note["bbox"], note["area"]) == (list(BOX), width * height)
        name = made.manifest.classes[made.images["target"][row].as_py()]
        assert coco.loadCats(note["category_id"])[0]["name"] == name


def test_fiftyone_has_regions_as_shares(folders: dict[str, Path], made: Export) -> None:
    samples = json.loads((folders["fiftyone"] / "samples.json").read_text())["samples"]
    [detection] = samples[0]["region"]["detections"]
    assert np.multiply(detection["bounding_box"], [WIDTH, HEIGHT] * 2) == pytest.approx(BOX)
    assert "region" not in samples[1]
    for row, sample in enumerate(samples):
        assert (folders["fiftyone"] / sample["filepath"]).is_file()
        assert (folders["fiftyone"] / sample["saliency"]["map_path"]).is_file()
        np.testing.assert_array_equal(sample["embedding"], made.embedding([row])[0])


def test_label_studio_has_box_brush_and_a_choice_that_the_config_offers(folders: dict[str, Path], made: Export) -> None:
    tasks = json.loads((folders["labelstudio"] / "tasks.json").read_text(encoding="utf-8"))
    config = ElementTree.parse(folders["labelstudio"] / "config.xml")  # noqa: S314
    assert [choice.get("value") for choice in config.iter("Choice")] == made.manifest.classes
    results = {part["type"]: part for part in tasks[0]["predictions"][0]["result"]}
    box = results["rectanglelabels"]["value"]
    shares = np.array([box[name] for name in ("x", "y", "width", "height")]) / 100
    assert shares * [WIDTH, HEIGHT, WIDTH, HEIGHT] == pytest.approx(BOX)
    mask = decoded(results["brushlabels"]["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
    region = region_of(planted(made), 0.2)
    assert region is not None
    np.testing.assert_array_equal(mask, np.where(region.mask, 255, 0)[..., None].repeat(4, 2))
    assert len(tasks[1]["predictions"][0]["result"]) == 1
    assert tasks[2]["data"]["image"] == "/data/local-files/?d=labelstudio/photos/000002.jpg"


def decoded(code: list[int]) -> np.ndarray:
    """A reader of the run-length code, from its description."""
    bits = iter("".join(f"{byte:08b}" for byte in code))

    def read(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)), 2)

    total, word = read(32), read(5) + 1
    sizes, values = [read(4) + 1 for _ in range(4)], list[int]()
    while len(values) < total:
        repeated, length = read(1), 0
        length = 1 + read(sizes[read(2)])
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return np.array(values)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([1, 17, 700]))
def test_runs_and_brushes_come_back(flat: list[bool], times: int) -> None:
    mask = np.repeat(np.array(flat), times)
    lengths = runs(mask)
    np.testing.assert_array_equal(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths), mask)
    if times < 700 or len(flat) < 40:
        np.testing.assert_array_equal(decoded(brush_code(mask[None])), np.repeat(mask * 255, 4))


def test_a_run_longer_than_a_length_holds_comes_back() -> None:
    mask = np.ones((1, 40_000), bool)
    assert decoded(brush_code(mask)).tolist() == [255] * 160_000


@pytest.mark.parametrize("threshold", [0.2, 0.39, 0.41, 1.0])
def test_the_largest_region_counts(threshold: float) -> None:
    heat = np.zeros((10, 20))
    heat[1, 1] = 1
    heat[4:9, 5:15] = 0.4
    region = region_of(heat, threshold)
    assert region is not None
    assert region.box == ((5, 4, 10, 5) if threshold <= 0.4 else (1, 1, 1, 1))


def test_what_json_cannot_say_is_left_out(made: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding beyond float16's range is stored as infinite, and so may a metric be."""
    monkeypatch.setattr("finer_ray.to.run.Held.embedding", lambda held, rows: np.array([[np.inf], [2.0]], np.float16))
    monkeypatch.setattr("finer_ray.to.run.Held.maps", Planted.maps)
    write_for(made, TOOLS["fiftyone"], tmp_path / "to", rows=[2, 3])
    first, second = json.loads((tmp_path / "to" / "samples.json").read_text())["samples"]
    assert "embedding" not in first
    assert second["embedding"] == [2.0]
    assert run._known({"deletion_auc": np.inf, "insertion_auc": 0.5, "localisation": None}) == {"insertion_auc": 0.5}


def test_a_photo_that_is_gone_leaves_its_map(tmp_path: Path) -> None:
    export = make(tmp_path, images=3)
    Path(export.images["shard"][0].as_py()).unlink()
    written = write_for(export, TOOLS["coco"], tmp_path / "to")
    assert (written.images, sum(written.lost.values())) == (3, 3)
    assert all("cannot be read again" in reason for reason in written.lost)
    images = json.loads((tmp_path / "to" / "annotations.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [f"maps/{row:06d}.png" for row in range(3)]


def test_a_photo_turned_by_exif_has_its_map_as_displayed(tmp_path: Path) -> None:
    export = make(tmp_path, images=2)
    shard = Path(export.images["shard"][0].as_py())
    exif = Image.Exif()
    exif[0x0112] = 6
    stored, turned = tmp_path / "old.tar", io.BytesIO()
    Image.new("RGB", (60, 80), "red").save(turned, "JPEG", exif=exif)
    shard.rename(stored)
    with tarfile.open(stored) as old, tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            body = turned.getvalue() if member.name == "k0.jpg" else old.extractfile(member).read()  # type: ignore[union-attr]
            member.size = len(body)
            new.addfile(member, io.BytesIO(body))
    write_for(export, TOOLS["coco"], tmp_path / "to")
    image = json.loads((tmp_path / "to" / "annotations.json").read_text())["images"][0]
    size = Image.open(tmp_path / "to" / image["map"]).size
    assert size == (image["width"], image["height"]) == (80, 60)
    assert (tmp_path / "to" / image["file_name"]).read_bytes() == turned.getvalue()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["png", "{out}", "--to", "{held}"], "holds 'mine.txt'"),
        (["png", "{out}", "--to", "{held}/mine.txt"], "is a file"),
        (["png", "{out}", "--map", "nomap"], "no map 'nomap'"),
        (["png", "{out}", "--where", "row > 99"], "none of the 5 images"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    made: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "mine.txt").write_text("mine")
    words = [word.format(out=made.folder.url, held=tmp_path / "held") for word in arguments]
    done = CliRunner().invoke(app, ["to", *words])
    assert reason in str(done.exception)
    assert [path.name for path in tmp_path.rglob("*")] == ["held", "mine.txt"]


def test_images_that_are_asked_for(made: Export, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["to", "png", made.folder.url, "--to", str(tmp_path / "to"), "--where", "row IN (1, 3)"]
    )
    assert done.exit_code == 0, done.output
    index = json.loads((tmp_path / "to" / "index.json").read_text())
    assert [(line["row"], line["file"]) for line in index["images"]] == [(1, "maps/000001.png"), (3, "maps/000003.png")]
    assert CliRunner().invoke(app, ["to", "paint", made.folder.url]).exit_code == 2
