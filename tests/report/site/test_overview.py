"""What the overview, class pages and the reading guide say first: names, findings, the best map, what goes wrong."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.report.best_map import best_map
from finer_ray.report.site import write_report
from finer_ray.report.site.class_errors import LISTED, PICTURED, class_errors
from finer_ray.report.site.data_name import data_name
from finer_ray.report.site.findings import findings
from finer_ray.report.site.image_pages import GAMMAS
from finer_ray.report.site.map_data import main_map
from finer_ray.report.site.overview import accuracy, metric_table, sweep_charts
from finer_ray.report.site.page_sample import judge
from finer_ray.report.site.reading_guide import question
from finer_ray.store.reading import Export
from finer_ray.store.tables import IMAGES, METRICS
from tests.report.site.exports import SIZE, make

FOUR: tuple[Any, ...] = ("gradcam", "layercam", "finer_gradcam", "finer_layercam")


def measured(export: Export, **means: dict[str, float]) -> Export:
    """The export with these values for every image, by metric and map."""
    lines = export.metrics.to_pylist()
    for line in lines:
        for metric, values in means.items():
            line[metric] = values.get(line["map"])
    export.metrics = pa.Table.from_pylist(lines, METRICS)
    return export


def read(path: Path) -> str:
    """Text of a page without its tags, in single spaces."""
    text = re.sub(r"<script.*?</script>|<[^>]*>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("shards", "name"),
    [
        (["/data/photos/*.tar"], "photos"),
        (["/data/birds/*.tar", "/data/finches/*.tar"], "birds, finches"),
        (["s3://bucket/cub/train-{0000..0999}.tar"], "cub"),
        (["s3://bucket/train-{0000..0999}.tar"], "bucket"),
        (["/data/cub/train/*.parquet"], "cub"),
        (["fish.parquet"], "fish"),
        (["a/fish.tar", "a/more.tar"], "a"),
        (["/data/museum/"], "museum"),
        (["a/1/", "b/2/", "c/3/", "d/4/", "e/5/"], "a, b, c and 2 more"),
        (["*.tar"], "Images"),
        (["https://host.org/herbarium/x-{0..9}.tar?version=2"], "herbarium"),
    ],
)
def test_the_title_is_the_data_sets(shards: list[str], name: str) -> None:
    assert data_name(shards) == name


def test_a_title_of_ones_own_stands_as_it_is(tmp_path: Path) -> None:
    made = make(tmp_path)
    command = ["report", str(tmp_path / "out"), "--images", "1", "--classes", "0", "--title", "Finches <2026>"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "<h1>Finches &lt;2026&gt;</h1>" in page
    write_report(made, tmp_path / "usual", images=1, classes=0)
    assert "<h1>a</h1>" in (tmp_path / "usual" / "index.html").read_text()


def test_the_map_that_measures_best_stands_for_the_export(tmp_path: Path) -> None:
    means = {"gradcam": 0.1, "layercam": 0.15, "finer_gradcam": 0.105, "finer_layercam": 0.206}
    made = measured(make(tmp_path, maps=FOUR), localisation=means)
    found = best_map(made)
    assert (found.name, found.metric) == ("finer_layercam", "localisation")
    assert found.means == pytest.approx(means)
    assert main_map(made) == "finer_layercam"
    assert judge(made) == ("finer_layercam", "localisation")
    write_report(made, tmp_path / "report")
    for page in ("index.html", "images.html", "reading.html"):
        said = read(tmp_path / "report" / page)
        assert "finer_layercam , which measures best of 4: energy on the object 0.206 on average, against" in said, page
        assert "0.105 of finer_gradcam" in said
    # The pictures are of the map that is named: of the same photos others where another map is best.
    other = measured(make(tmp_path / "other", maps=FOUR), localisation={**means, "finer_gradcam": 0.9})
    write_report(other, tmp_path / "second")
    for file, same in (("0.jpg", True), ("0-map.jpg", False)):
        one, two = ((tmp_path / name / "images" / file).read_bytes() for name in ("report", "second"))
        assert (one == two) is same, file


@pytest.mark.parametrize(
    ("values", "name", "metric"),
    [
        # Lower is better.
        ({"deletion_auc": {"gradcam": 0.2, "finer_gradcam": 0.3, "layercam": 0.4}}, "gradcam", "deletion_auc"),
        # Of equals the finer one.
        ({"localisation": dict.fromkeys(FOUR, 0.5)}, "finer_gradcam", "localisation"),
        # NaN and null are no values; a map without any is not the best.
        ({"localisation": {"gradcam": float("nan"), "layercam": 0.1}}, "layercam", "localisation"),
        ({"pointing_hit": {"gradcam": True, "finer_gradcam": False}}, "gradcam", "pointing_hit"),
        ({}, "finer_gradcam", None),
    ],
)
def test_how_the_best_map_is_chosen(tmp_path: Path, values: dict[str, Any], name: str, metric: str | None) -> None:
    made = measured(make(tmp_path, maps=FOUR, metrics=False, curves=()), **values)
    found = best_map(made)
    assert (found.name, found.metric) == (name, metric)
    assert judge(made) == ((name, metric) if metric else (None, None))


def test_findings_say_which_map_is_better_and_what_may_be_chance(tmp_path: Path) -> None:
    made = make(tmp_path, images=30)
    lines = made.metrics.to_pylist()
    random = np.random.default_rng(0)
    for line in lines:
        finer = line["map"] == "finer_gradcam"
        line["localisation"] = 0.37 + 0.02 * finer + 0.001 * float(random.standard_normal())
        line["pointing_hit"] = bool(random.random() < 0.5)
    made.metrics = pa.Table.from_pylist(lines, METRICS)
    light, point = findings(metric_table(made), ["gradcam", "finer_gradcam"], "finer_gradcam", "gradcam")
    said = light.text.replace("\N{NO-BREAK SPACE}%", " %")
    assert said == "Finer-CAM puts 39 % of its light on the annotated object; plain Grad-CAM 37 %"
    assert (light.better, light.verdict) == (True, "better by 2.0 points")
    assert re.fullmatch(r"\[\+(1\.9|2\.0), \+2\.\d\]", light.interval)
    assert (point.better, point.verdict) == (None, "no sure difference")
    swapped = findings(metric_table(measured(made, localisation={"gradcam": 0.5, "finer_gradcam": 0.4})),
                       ["gradcam", "finer_gradcam"], "finer_gradcam", "gradcam")  # fmt: skip
    assert swapped[0].verdict == "worse by 10.0 points"


def test_without_shares_of_the_object_the_metric_that_judges_is_told(tmp_path: Path) -> None:
    made = measured(make(tmp_path, metrics=False, curves=()), deletion_auc={"gradcam": 0.25, "finer_gradcam": 0.125})
    [found] = findings(metric_table(made), ["gradcam", "finer_gradcam"], "finer_gradcam", "gradcam")
    assert found.text == "Finer-CAM has deletion AUC 0.125 (lower is better); plain Grad-CAM 0.250"
    assert (found.better, found.verdict) == (True, "better by 0.125")
    both = {name: {"gradcam": 0.25, "finer_gradcam": 0.5} for name in ("sparsity", "iou")}
    made = measured(make(tmp_path / "more", metrics=False, curves=()), **both)
    [found] = findings(metric_table(made), ["gradcam", "finer_gradcam"], "finer_gradcam", "gradcam")
    assert "has overlap with the object" in found.text
    assert best_map(made).metric == "iou"


def test_the_interval_of_a_perfect_accuracy_has_a_width(tmp_path: Path) -> None:
    made = make(tmp_path, images=20)
    lines = [line | {"label": line["predicted"]} for line in made.images.to_pylist()]
    found = accuracy(pa.Table.from_pylist(lines, IMAGES))
    assert found is not None
    # Wilson's interval of 20 of 20.
    assert (found["mean"], found["high"]) == (1, 1)
    assert found["low"] == pytest.approx(20 / (20 + 1.96**2), abs=1e-4)


def test_errors_of_a_class_are_those_of_the_tables(tmp_path: Path) -> None:
    made = make(tmp_path, images=48)
    lines, values = made.images.to_pylist(), made.metrics.to_pylist()
    for line in lines:
        line["predicted_probability"] = 0.3 + 0.01 * line["row"]
    made.images = pa.Table.from_pylist(lines, IMAGES)
    best = best_map(made)
    found = class_errors(made, [0, 3], best)
    assert found.keys() == {0, 3}
    for index, errors in found.items():
        mine = [line for line in lines if line["label"] == index]
        wrong = [line for line in mine if line["predicted"] != index]
        assert [line["row"] for line in errors.wrong] == sorted((line["row"] for line in wrong), reverse=True)
        assert errors.pictured() == [line["row"] for line in errors.wrong][:PICTURED]
        assert len(errors.wrong) <= LISTED
        energy = {line["row"]: line["localisation"] for line in values if line["map"] == best.name}
        assert [line["value"] for line in errors.wrong] == pytest.approx([energy[line["row"]] for line in errors.wrong])
        for right in (True, False):
            rows = [line["row"] for line in mine if (line["predicted"] == index) == right]
            assert errors.means[right]["count"] == len(rows)
            assert errors.means[right]["localisation"] == pytest.approx(np.mean([energy[row] for row in rows]))
        assert "energy on the object ↑" in [words for words, _, _ in errors.compared()]


def test_a_class_page_begins_with_what_goes_wrong(tmp_path: Path) -> None:
    made = make(tmp_path, images=48, classes=("cat", "dog", "fox", "<b>hen</b>"))
    write_report(made, tmp_path / "report", images=2, classes=4)
    lines = made.images.to_pylist()
    page = (tmp_path / "report" / "classes" / "0.html").read_text()
    wrong = [line for line in lines if line["label"] == 0 and line["predicted"] != 0]
    assert f"{len(wrong)} of {sum(line['label'] == 0 for line in lines)} labelled images are taken for" in page
    assert page.index("What goes wrong") < page.index("Best, median and worst") < page.index("Confused with")
    first = page[page.index("What goes wrong") : page.index("How they differ")]
    assert {int(row) for row in re.findall(r"images/(\d+)\.html", first)} <= {line["row"] for line in wrong}
    assert len(re.findall(r"card-image", first)) == min(PICTURED, len(wrong))
    assert "<b>hen</b>" not in page
    assert '<a href="images.html#is.verdict=wrong&amp;is.label=0"' in (tmp_path / "report" / "index.html").read_text()


def test_a_class_without_errors_says_so(tmp_path: Path) -> None:
    made = make(tmp_path, images=8)
    lines = [line | {"label": line["predicted"]} for line in made.images.to_pylist()]
    made.images = pa.Table.from_pylist(lines, IMAGES)
    write_report(made, tmp_path / "report")
    assert "Nothing: each of its 2 labelled images is predicted right" in read(
        tmp_path / "report" / "classes" / "0.html"
    )
    assert "Which images go wrong" not in read(tmp_path / "report" / "index.html")


def test_a_sweep_says_which_images_it_leaves_out() -> None:
    scores = np.full((5, len(GAMMAS)), 0.5)
    scores[1, 7] = np.nan
    [(words, of_images, chart)] = sweep_charts(GAMMAS, {"localisation": scores}, 0.6, drawn=12, swept=9, lacking=1)
    assert words == "energy on the object"
    assert of_images == (
        "4 of 12 images; left out: 1 with no photo at hand, 3 without an annotated region, "
        "1 whose map is zero at some gamma, 3 beyond the 9 that are swept."
    )
    assert "images" not in chart
    [(_, every, _)] = sweep_charts(GAMMAS, {"localisation": scores[2:]}, 0.6, drawn=3, swept=3, lacking=0)
    assert every == "All 3 images."


@pytest.mark.parametrize(
    ("wanted", "said", "pictures"),
    [
        ({}, "this is the one whose light moves furthest", 3),
        ({"saliency": {"gamma": 2.0}}, "gamma 2", 2),
        ({"basis": False}, "no contrast basis", 0),
        ({"references": 0, "maps": ("gradcam",)}, "no example is shown", 0),
        ({"metrics": False, "regions": False, "curves": ()}, "This export has no metric of its maps", 3),
        ({"images": 0, "failures": ["gone"]}, "no example is shown", 0),
    ],
)
def test_the_guide_is_of_this_export(tmp_path: Path, wanted: dict[str, Any], said: str, pictures: int) -> None:
    write_report(make(tmp_path, **wanted), tmp_path / "report")
    assert said in read(tmp_path / "report" / "reading.html")
    assert len(list((tmp_path / "report" / "assets").glob("reading-*.jpg"))) == pictures


def test_the_guide_asks_the_question_of_each_gamma(tmp_path: Path) -> None:
    made = make(tmp_path, classes=("cat", "dog", "fox", "<b>hen</b>"))
    write_report(made, tmp_path / "report")
    page = (tmp_path / "report" / "reading.html").read_text()
    row = int(re.findall(r'href="images/(\d+)\.html"', page)[0])
    line = made.images.to_pylist()[row]
    names = made.manifest.classes
    text = read(tmp_path / "report" / "reading.html").replace("&lt;", "<").replace("&gt;", ">")
    for gamma in (0, 0.6, 2):
        assert f"gamma {gamma:g}" in text
        assert question(names[line["target"]], [names[index] for index in line["references"]], gamma) in text
    for gamma, place in ((0.0, 0), (0.6, 1), (2.0, 2)):
        assert f"brightest value {made.contrast([row], gamma, size=SIZE).max():.2g}" in text, place


def test_pages_say_what_lies_below_gamma_zero() -> None:
    assert question("a", ["b", "c", "d"], -1) == "What do a and b, c or d have in common?"
    assert question("a", [], 2) == "What speaks for a?"


def test_the_guide_shows_an_image_that_is_predicted_right(tmp_path: Path) -> None:
    made = make(tmp_path, images=24)
    write_report(made, tmp_path / "report")
    [row] = re.findall(r'href="images/(\d+)\.html"', (tmp_path / "report" / "reading.html").read_text())
    line = made.images.to_pylist()[int(row)]
    assert line["label"] == line["predicted"] == line["target"]
