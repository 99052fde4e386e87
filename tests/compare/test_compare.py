"""Two exports compared: itself against itself, growing noise, other views, other images, and what a schedule sees."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from rich.console import Console
from scipy.interpolate import RegularGridInterpolator
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.compare.images import CHANGES
from finer_ray.compare.page import job_differences, largest
from finer_ray.compare.placed import POINTS, common_boxes, placed
from finer_ray.compare.run import compare
from finer_ray.compare.shown import shown
from finer_ray.compare.summary import Summary
from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.images.transform import Transform
from finer_ray.pipeline.export import export
from finer_ray.store.reading import Export, open_export
from tests.conftest import jobs_in, sample, write_tar
from tests.report.site.exports import make

NOISE = (0.0, 0.1, 0.8)
COUNT = 10
Run = Callable[..., Export]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Exports of a few photos by a tiny model, whose weights get noise of a share of their spread."""
    root = tmp_path_factory.mktemp("runs")
    job = jobs_in(root)
    members = [member for seed in range(COUNT) for member in sample(f"k{seed}", seed, box=[8, 8, 50, 50])]
    shards = str(write_tar(root / "in" / "0.tar", members))
    torch.manual_seed(0)
    weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    noise = {key: torch.randn_like(value) for key, value in weights.items() if value.ndim > 1}
    known: dict[str, Export] = {}

    def make(level: float = 0.0, **model: Any) -> Export:
        name = f"noise-{level}-{len(model)}"
        if name not in known:
            noisy = {
                key: value + level * value.std() * noise[key] if key in noise else value
                for key, value in weights.items()
            }
            torch.save(noisy, root / "w.pth")
            config = job(
                shards,
                model={"weights": str(root / "w.pth"), "image_size": 160, **model},
                output={"url": str(root / name)},
            )
            export(config)
            known[name] = open_export(config.output.url)
        return known[name]

    return make


@pytest.fixture(scope="module")
def noisy(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Summary]:
    """The model against itself with growing noise; first with none."""
    folder = tmp_path_factory.mktemp("compared")
    return [compare(run(), run(level), folder / str(level)) for level in NOISE]


def test_itself_against_itself_gives_zeros(noisy: list[Summary]) -> None:
    same = noisy[0]
    assert (same.joined, same.only_a, same.only_b, same.flipped, same.notes) == (COUNT, 0, 0, 0, [])
    for change in same.maps:
        assert [(e.mean, e.low, e.high) for e in (change.correlation, change.top_overlap)] == [(1, 1, 1)] * 2
        assert [(e.mean, e.low, e.high) for e in (change.shift, change.shift_x, change.shift_y)] == [(0, 0, 0)] * 3
        assert change.correlation.count == COUNT
    assert {(c.difference.mean, c.difference.low, c.difference.high, c.verdict) for c in same.metrics} == {
        (0, 0, 0, "the same")
    }
    assert {(line["psi"], line["drifted"]) for line in same.drift} == {(0, False)}
    assert set(same.held.values()) == {0}
    assert same.over(0) == {}


def test_agreement_falls_as_noise_grows(noisy: list[Summary]) -> None:
    for place in range(len(noisy[0].maps)):
        changes = [summary.maps[place] for summary in noisy]
        for falling in ([c.correlation.mean for c in changes], [c.top_overlap.mean for c in changes]):
            assert falling == sorted(set(falling), reverse=True)
        rising = [change.shift.mean for change in changes]
        assert rising == sorted(set(rising))
        assert [s.held[f"1 - correlation of {changes[0].name}"] for s in noisy] == [
            1 - change.correlation.mean for change in changes
        ]


def test_a_line_is_what_both_exports_say(run: Run, tmp_path: Path) -> None:
    one, other = run(), run(0.8)
    compare(one, other, tmp_path / "to")
    table = pq.read_table(tmp_path / "to" / "compare.parquet")
    assert table.schema.equals(CHANGES)
    lines = table.to_pylist()
    names = one.manifest.layout.maps
    assert [(line["row_a"], line["map"]) for line in lines] == [(row, name) for row in range(COUNT) for name in names]
    for line in lines[:4]:
        row = line["row_a"]
        shares = [
            next(
                found["localisation"]
                for found in made.metrics.to_pylist()
                if (found["row"], found["map"]) == (row, line["map"])
            )
            for made in (one, other)
        ]
        assert line["localisation"] == pytest.approx(shares[1] - shares[0])
        predicted = [made.images["predicted"][row].as_py() for made in (one, other)]
        assert line["flipped"] == (predicted[0] != predicted[1])
        maps = [made.maps([row], line["map"], (48, 48))[0].ravel() for made in (one, other)]
        assert line["correlation"] == pytest.approx(np.corrcoef(*maps)[0, 1], abs=1e-6)


def test_maps_of_other_views_lie_on_the_same_points_of_the_photo(run: Run, tmp_path: Path) -> None:
    crop, whole = run(crop_pct=0.8), run()
    sizes = [(80, 64), (64, 80)]
    boxes = common_boxes(crop, whole, sizes)
    # 0.8 of the shorter side.
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], 0.8 * 64, atol=0.5)
    for made in (crop, whole):
        found = placed(made, [0, 1], "gradcam", sizes, boxes)
        registration, transform = made.manifest.layout.registration, Transform(**made.manifest.transform)
        assert registration is not None
        for points, heat, size, box in zip(found, made.maps([0, 1], "gradcam"), sizes, boxes, strict=True):
            view = transform.view_box(*size)
            # Where the cells have their centres in the photo, along y and x.
            centres = [
                view[1 - axis]
                + (registration.offset[axis] + registration.stride[axis] * np.arange(cells) + 0.5)
                / transform.size[axis]
                * (view[3 - axis] - view[1 - axis])
                for axis, cells in enumerate(heat.shape)
            ]
            middles = (np.arange(POINTS) + 0.5) / POINTS
            wanted = [
                (box[1 - axis] + middles * (box[3 - axis] - box[1 - axis])).clip(centres[axis][0], centres[axis][-1])
                for axis in (0, 1)
            ]
            expected = RegularGridInterpolator(centres, heat)(tuple(np.meshgrid(*wanted, indexing="ij")))
            np.testing.assert_allclose(points, expected, rtol=1e-4, atol=1e-5 * heat.max())
    found = compare(crop, whole, tmp_path / "to")
    assert found.joined == COUNT
    assert all(change.correlation.count == COUNT for change in found.maps)


def test_other_images_are_compared_by_their_distributions(tmp_path: Path) -> None:
    one = make(tmp_path / "a", images=64, embedding=6)
    alike = make(tmp_path / "b", images=48, embedding=6, key="m{}".format)
    found = compare(one, alike, tmp_path / "to")
    assert (found.joined, found.only_a, found.only_b) == (0, 64, 48)
    assert pq.read_table(tmp_path / "to" / "compare.parquet").num_rows == 0
    assert {line["kind"] for line in found.drift} == {"prediction", "metric", "embedding"}
    assert found.over(0.1) == {}
    # One class alone: other predictions, other embeddings.
    other = make(tmp_path / "c", images=48, embedding=6, key="m{}".format, classes=("cat",), references=0)
    over = compare(one, other, tmp_path / "to").over(0.1)
    assert "PSI of prediction: predicted class" in over
    assert any(name.startswith("PSI of embedding") for name in over)


def test_keys_may_agree_though_images_do_not(tmp_path: Path) -> None:
    made = make(tmp_path / "a", images=12)
    found = compare(made, made, tmp_path / "to", join=False)
    assert (found.joined, found.only_a, found.only_b) == (0, 12, 12)
    assert set(found.held.values()) == {0}


def test_a_schedule_sees_the_exit_code(run: Run, tmp_path: Path) -> None:
    urls = [run(level).folder.url for level in (0.0, 0.8)]
    to = str(tmp_path / "to")
    asked = (
        ([urls[0]] * 2, ["--fail-over", "0"]),
        (urls, []),
        (urls, ["--fail-over", "0.1"]),
    )
    done = [CliRunner().invoke(app, ["compare", *pair, "--to", to, *limit]) for pair, limit in asked]
    assert [result.exit_code for result in done] == [0, 0, 8]
    assert "over 0.1: " in done[-1].stderr
    held = json.loads((tmp_path / "to" / "report.json").read_text())["held"]
    assert held["1 - correlation of gradcam"] > 0.1


def test_lost_images_are_over_the_limit(job: Callable[..., Config], tmp_path: Path) -> None:
    whole = [sample(f"k{seed}", seed) for seed in range(6)]
    cut = [[(name, body[:200] if name == "k1.jpg" else body) for name, body in each] for each in whole]
    urls = [str(tmp_path / name) for name in ("a", "b")]
    for url, samples in zip(urls, (whole, cut), strict=True):
        shard = write_tar(Path(url + "_in") / "0.tar", [member for each in samples for member in each])
        export(job(str(shard), output={"url": url}))
    for pair, code in ((urls, 8), (urls[::-1], 0)):
        done = CliRunner().invoke(app, ["compare", *pair, "--to", str(tmp_path / "to"), "--fail-over", "0.1"])
        assert done.exit_code == code, done.stderr
        figures = json.loads((tmp_path / "to" / "report.json").read_text())
        assert figures["held"]["share of images that fail in B alone"] == pytest.approx(1 / 6 if code else 0)
        assert any(note.endswith("failures: 1") for note in figures["notes"]) == (code == 8)


def test_a_limit_is_refused_where_nothing_can_be_held_to_it(tmp_path: Path) -> None:
    one, other = (make(tmp_path / name, images=4, key=(name + "{}").format) for name in "ab")
    found = compare(one, other, tmp_path / "to")
    assert found.held == {}
    with pytest.raises(ExportError, match="nothing can be held"):
        found.over(0.1)


def test_nothing_of_anybodys_is_replaced(run: Run, tmp_path: Path) -> None:
    made = run()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        compare(made, made, tmp_path / "to")
    with pytest.raises(ExportError, match="that is no report"):
        compare(made, made, Path(made.folder.url))
    assert (tmp_path / "to" / "notes.txt").read_text() == "mine"


def test_the_page_shows_what_changed_most(run: Run, tmp_path: Path) -> None:
    one, other = run(), run(0.8)
    compare(one, other, tmp_path / "to")
    page = (tmp_path / "to" / "index.html").read_text()
    pictures = {path.name for path in (tmp_path / "to" / "images").iterdir()}
    assert pictures == {f"{number}-{what}.jpg" for number in range(COUNT) for what in ("photo", "a", "b")}
    assert page.count('class="card-image"') == COUNT
    assert "the model of B has other weights under the same names" in page
    assert str(Path(one.folder.url).parent) not in page


def test_images_that_did_not_change_are_not_shown() -> None:
    columns = {"map": ["m"] * 4, "flipped": [False, False, True, False], "correlation": [None, 1.0, None, 0.5]}
    lines = largest(pa.table(columns, pa.schema({"map": "string", "flipped": "bool", "correlation": "double"})), "m")
    assert [(line["flipped"], line["correlation"]) for line in lines] == [(True, None), (False, 0.5)]


def test_one_image_has_no_intervals(tmp_path: Path) -> None:
    made = make(tmp_path / "a", images=1)
    console = Console(width=200, record=True, file=StringIO())
    for table in shown(compare(made, made, tmp_path / "to")):
        console.print(table)
    screen = console.export_text()
    assert "1.000" in screen
    assert "nan" not in screen
    assert "[–" not in (tmp_path / "to" / "index.html").read_text(encoding="utf-8")


def test_defaults_that_came_later_are_no_difference(tmp_path: Path) -> None:
    now, before = make(tmp_path / "a", images=1), make(tmp_path / "b", images=1)
    for tree, came in (("metrics", "road"), ("saliency", "legrad"), ("output", "map_embedding")):
        del before.manifest.config[tree][came]
    now.manifest.config["input"]["shards"] = before.manifest.config["input"]["shards"]
    assert job_differences(before, now) == job_differences(now, before) == []
    now.manifest.config["metrics"]["road"] = True
    now.manifest.config["compute"]["precision"] = "bf16"
    now.manifest.config["model"]["weights"] = "/home/anna/w.pth"
    assert job_differences(before, now) == [
        "model.weights 'random' in A, 'w.pth' in B",
        "compute.precision 'fp32' in A, 'bf16' in B",
        "metrics.road not given in A, True in B",
    ]
