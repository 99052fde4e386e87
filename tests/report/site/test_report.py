"""The report's files: every kind of export becomes whole pages; nothing of the input becomes code or a file's name."""

import fcntl
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import ExportError
from finer_ray.report.best_map import best_map
from finer_ray.report.site import write_report
from finer_ray.report.site.charts import Series, histogram, line_chart
from finer_ray.report.site.class_errors import PICTURED, class_errors
from finer_ray.report.site.curves import image_curves, mean_curves
from finer_ray.report.site.overview import accuracy, failures, similarity_chart
from finer_ray.report.site.page_sample import PICKS, draw_sample
from finer_ray.store.reading import Export
from finer_ray.store.tables import METRICS
from tests.report.site.exports import SIZE, make

HOSTILE = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Text, links and scripts of a page; fails where tags are not closed in order."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.open, self.text = path, [], ""
        self.links: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.inline: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], path

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.inline += [name for name in found if name.startswith("on") or name == "style"]
        self.links += [link for name in ("href", "src") if (link := found.get(name))]
        if tag == "script":
            self.scripts.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (self.path, tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text += data if not self.open or self.open[-1] not in ("script", "style") else ""


def pages(folder: Path) -> dict[str, Page]:
    found = {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}
    for page in found.values():
        assert page.inline == []
        for script in page.scripts:
            assert "src" in script or script.get("type") == "application/json"
        for link in page.links:
            place = link.split("#")[0]
            assert not re.match(r"[a-z]+:|//", link) or link == "data:,", link
            assert not place or link == "data:," or (page.path.parent / place).is_file(), (page.path, link)
    return found


def report(tmp_path: Path, export: Export, **options: Any) -> dict[str, Page]:
    write_report(export, tmp_path / "report", **options)
    return pages(tmp_path / "report")


def test_pages_say_what_the_tables_say(tmp_path: Path) -> None:
    export = make(tmp_path, images=12, failures=["bad byte 7 in 'a'", "bad byte 9 in 'b'", "no image"])
    found = report(tmp_path, export, pairs=0)
    text = found["index.html"].text
    right = np.mean(export.images["label"].to_numpy() == export.images["predicted"].to_numpy())
    assert f"{100 * right:.1f}\N{NO-BREAK SPACE}%" in text
    finer = export.metrics.filter(np.array(export.metrics["map"]) == "finer_gradcam")
    assert f"{np.mean(finer['localisation'].to_numpy()):.3f}" in text
    assert len(found) == 3 + 4 + 12
    assert "Every image has a page" in text
    # Two failures differ in a number and a name alone.
    lines = failures(export)
    assert [(line["stage"], line["count"]) for line in lines] == [("decode", 2), ("decode", 1)]
    assert lines[0]["reason"] == "bad byte … in …"
    assert "bad byte 7 in 'a'" in text
    with Image.open(tmp_path / "report" / "images" / "3.jpg") as image:
        assert image.size == SIZE[::-1]
    assert "dog" in found["classes/1.html"].text


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"labels": False}, "no image is labelled"),
        ({"metrics": False, "regions": False}, "No metric was computed"),
        ({"basis": False}, "It needs the stored basis"),
        ({"references": 0, "maps": ("gradcam",)}, "against 0 references"),
        ({"images": 0, "failures": ["gone"]}, "No image was explained"),
        ({"lacking": [0, 3]}, "Gamma sweep"),
        ({"maps": [{"name": "far", "cam": "gradcam", "gamma": 2.0}, "gradcam", "layercam"]}, "far"),
        (
            {"classes": ("cat", "dog", "red bill", "wing"), "concepts": 2, "references": 1},
            "targets have no probability",
        ),
    ],
)
def test_what_is_missing_becomes_a_sentence(tmp_path: Path, wanted: dict[str, Any], said: str) -> None:
    found = report(tmp_path, make(tmp_path, **wanted))
    assert said in found["index.html"].text
    assert "nan" not in " ".join(page.text.lower() for page in found.values()).replace("nanmean", "")


def test_text_of_the_input_is_never_code(tmp_path: Path) -> None:
    export = make(
        tmp_path,
        classes=(HOSTILE, "</title><img src=x onerror=y>", "{{ 7 * 7 }}", 'd\'og" onclick="z'),
        key=lambda row: f"a/<script>{row}",
        failures=[f"{HOSTILE} is no image"],
    )
    found = report(tmp_path, export)
    assert HOSTILE in found["index.html"].text
    assert "{{ 7 * 7 }}" in found["images.html"].text
    assert "<script>0" in found["images/0.html"].text
    names = {path.name for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert all(re.fullmatch(r"[a-z0-9-]+\.(html|js|css|json|jpg|png)", name) for name in names)


def test_photos_that_are_gone_stop_nothing(tmp_path: Path) -> None:
    export = make(tmp_path)
    shard = tmp_path / "in" / "a.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    found = report(tmp_path, export)
    assert "photos are not at hand" in found["index.html"].text
    assert "The photo is not at hand" in found["images/5.html"].text
    assert "The photo is not at hand" not in found["images/0.html"].text
    shard.unlink()
    found = report(tmp_path, export)
    assert "6 of 6 photos are not at hand" in found["index.html"].text


def test_photos_that_changed_are_not_shown(tmp_path: Path) -> None:
    export = make(tmp_path)
    make(tmp_path / "other", key="other{}".format)
    (tmp_path / "other" / "in" / "a.tar").replace(tmp_path / "in" / "a.tar")
    assert "another image, 'other2'" in report(tmp_path, export)["images/2.html"].text


def test_a_sample_is_bounded_seeded_and_holds_best_and_worst(tmp_path: Path) -> None:
    export = make(tmp_path, images=96, classes=("cat", "dog", "fox"))
    one, same, other = (draw_sample(export, 10, 2, seed) for seed in (0, 0, 1))
    assert (one.rows, one.picks) == (same.rows, same.picks)
    assert one.rows != other.rows
    assert (len(one.rows), len(one.classes)) == (10, 2)
    assert (one.by, one.map) == ("localisation", best_map(export).name)
    values = {line["row"]: line["localisation"] for line in export.metrics.to_pylist() if line["map"] == one.map}
    for index in one.classes:
        mine = sorted(
            (values[line["row"]] for line in export.images.to_pylist() if line["label"] == index), reverse=True
        )
        drawn = [values[line["row"]] for line in one.picks[index]]
        assert drawn[:PICKS] == mine[:PICKS]
        assert drawn[-PICKS:] == mine[-PICKS:]
        assert np.median(drawn[PICKS:-PICKS]) == pytest.approx(np.median(mine), abs=0.1)
        assert len(drawn) <= 3 * PICKS + 1
    found = report(tmp_path, export, images=10, classes=2, pairs=0)
    assert "10 of 96 images drawn at random (seed 0)" in found["index.html"].text
    wrong = [
        row for errors in class_errors(export, one.classes, best_map(export)).values() for row in errors.pictured()
    ]
    assert {int(name[7:-5]) for name in found if name.startswith("images/")} == {*one.pages(), *wrong}
    assert len(one.pages()) <= 10 + 2 * (3 * PICKS + 1)
    assert len(wrong) <= 2 * PICTURED
    assert sum(name.startswith("classes/") for name in found) == 2


def test_a_report_replaces_a_report(tmp_path: Path) -> None:
    export = make(tmp_path)
    write_report(export, tmp_path / "report", images=6)
    first = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "report").rglob("*.html")}
    write_report(export, tmp_path / "report", images=2)
    again = {path.relative_to(tmp_path) for path in (tmp_path / "report").rglob("*.html")}
    assert again <= first.keys()
    write_report(export, tmp_path / "report", images=6)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "report").rglob("*.html")} == first
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "report"}


@pytest.mark.parametrize(
    ("name", "link"),
    [("notes.html", False), ("images/own.png", False), ("images/3.html.bak", False), ("deep/a/b", False),
     ("images/7.html", True), ("classes/x", True), ("assets/fonts/a.woff", False)],
)  # fmt: skip
def test_what_a_report_did_not_write_is_not_taken_away(tmp_path: Path, name: str, link: bool) -> None:
    export = make(tmp_path)
    folder = tmp_path / "report"
    write_report(export, folder, images=1)
    own = folder / name
    own.parent.mkdir(parents=True, exist_ok=True)
    if link:
        own.unlink(missing_ok=True)
        own.symlink_to(tmp_path / "in", target_is_directory=True)
    else:
        own.write_text("mine")
    before = set(folder.rglob("*"))
    refused = pytest.raises(ExportError, match=r"no report has such a file, and is not taken away")
    if name != "images/7.html":
        with refused:
            write_report(export, folder)
        assert set(folder.rglob("*")) == before
    else:
        # It has the name of a page: the link goes, never what it leads to.
        write_report(export, folder)
    assert (tmp_path / "in" / "a.tar").is_file()


@pytest.mark.parametrize("holds", ["a.tar", "index.html"])
def test_a_folder_that_is_no_report_stays(tmp_path: Path, holds: str) -> None:
    export = make(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / holds).write_text("mine")
    with pytest.raises(ExportError, match="that is no report"):
        write_report(export, tmp_path / "own")
    assert (tmp_path / "own" / holds).read_text() == "mine"


def test_a_file_stays(tmp_path: Path) -> None:
    export = make(tmp_path)
    (tmp_path / "thesis.html").write_text("mine")
    with pytest.raises(ExportError, match="is a file: name a folder with --to"):
        write_report(export, tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "mine"


def test_an_empty_folder_and_a_link_to_one_are_taken(tmp_path: Path) -> None:
    export = make(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "report").symlink_to(tmp_path / "real")
    for _ in range(2):
        assert write_report(export, tmp_path / "report", images=1) == tmp_path / "report" / "index.html"
    assert (tmp_path / "report").is_symlink()
    assert (tmp_path / "real" / "index.html").is_file()


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    export = make(tmp_path)
    dead = [tmp_path / f".report.0123abc{place}.{what}" for place, what in enumerate(("tmp", "old"))]
    unsigned, strange, alive, other = (
        tmp_path / f".report.{name}" for name in ("01234567.tmp", "89abcdef.old", "fedcba98.tmp", "mine")
    )
    for folder in (*dead, unsigned, strange, alive, other):
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "1.html").write_text("left")
        if folder is not unsigned:
            (folder / "report.json").write_text("{}")
    (strange / "thesis.tex").write_text("mine")
    with (alive / "report.json").open() as sign:
        fcntl.flock(sign, fcntl.LOCK_EX)
        write_report(export, tmp_path / "report", images=1)
    assert [folder.exists() for folder in dead] == [False, False]
    assert [folder.exists() for folder in (unsigned, strange, alive, other)] == [True] * 4


def test_command_writes_into_the_export(tmp_path: Path) -> None:
    make(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--images", "2", "--classes", "1"])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "out" / "report" / "index.html")
    assert len(list((tmp_path / "out" / "report" / "classes").iterdir())) == 1


def test_curves_are_the_tables_mean_with_its_interval(tmp_path: Path) -> None:
    export = make(tmp_path, images=20, curves=["deletion", "insertion"], steps=4)
    for kind in ("deletion", "insertion"):
        found = mean_curves(export, f"{kind}_curve")
        assert [series.name for series in found] == ["gradcam", "finer_gradcam"]
        for series in found:
            lines = [line for line in export.metrics.to_pylist() if line["map"] == series.name]
            stacked = np.array([line[f"{kind}_curve"] for line in lines])
            margin = 1.96 * stacked.std(0, ddof=1) / 20**0.5
            np.testing.assert_allclose(series.x, [0, 25, 50, 75, 100])
            np.testing.assert_allclose(series.y, stacked.mean(0))
            assert series.low is not None
            assert series.high is not None
            np.testing.assert_allclose(series.low, stacked.mean(0) - margin)
            np.testing.assert_allclose(series.high, stacked.mean(0) + margin)
    found = report(tmp_path, export)
    for page in ("index.html", "images/7.html"):
        assert "Deletion curve" in found[page].text
        assert "Insertion curve" in found[page].text
    mine = [line for line in export.metrics.to_pylist() if line["row"] == 7]
    assert [series.y.tolist() for series in image_curves(mine, "deletion_curve")] == [
        line["deletion_curve"] for line in mine
    ]


def test_curves_and_yes_or_no_are_in_words(tmp_path: Path) -> None:
    export = make(tmp_path, images=1, curves=("deletion", "least_first"))
    export.metrics = pa.Table.from_pylist([line | {"increase": True} for line in export.metrics.to_pylist()], METRICS)
    text = report(tmp_path, export)["images/0.html"].text
    assert "Deletion, least first" in text
    assert "Least first curve" in text
    assert "least_first" not in text
    assert re.search(r"increase in confidence ↑\s*yes", text)


def test_curves_that_were_not_computed_are_not_drawn(tmp_path: Path) -> None:
    found = report(tmp_path, make(tmp_path / "one", images=1))
    assert "Deletion curve" in found["images/0.html"].text
    assert "Insertion" not in found["index.html"].text + found["images/0.html"].text
    found = report(tmp_path, make(tmp_path / "none", curves=()))
    assert "Not measured (metrics.deletion)" in found["index.html"].text
    assert "Deletion" not in found["images/0.html"].text


def test_similarity_needs_no_weights(tmp_path: Path) -> None:
    export = make(tmp_path / "a")
    chart = similarity_chart(export)
    assert chart is not None
    points = re.search(r'polyline points="([^"]*)"', chart)
    assert points is not None
    # Three other classes, ever less similar: further down on the page.
    levels = [float(point.split(",")[1]) for point in points.group(1).split()]
    assert len(levels) == export.similarity.num_rows == 3
    assert levels == sorted(levels)
    none = make(tmp_path / "b", classifier=False)
    assert none.similarity.num_rows == 0
    assert similarity_chart(none) is None
    assert "no classifier (model.head: none)" in report(tmp_path, none)["index.html"].text


def test_accuracy_has_an_interval(tmp_path: Path) -> None:
    found = accuracy(make(tmp_path, images=40).images)
    assert found is not None
    assert 0 <= found["low"] < found["mean"] < found["high"] <= 1


def test_charts_are_drawn_where_the_values_are() -> None:
    chart = line_chart([Series("a<b", np.array([0.0, 1.0]), np.array([0.0, 10.0]))], "x & y", "z")
    assert "x &amp; y" in chart
    points = re.search(r'polyline points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', chart)
    assert points is not None
    left, bottom, right, top = (float(value) for value in points.groups())
    assert left < right
    assert bottom > top


def test_distributions_stand_one_above_another_with_their_medians() -> None:
    random = np.random.default_rng(0)
    values = {f"map {place}": random.normal(place, 0.3, 200) for place in range(4)}
    values["<b>none</b>"] = np.array([np.nan])
    chart = histogram(values, "x & y")
    boxes = [
        np.array(re.findall(r"([\d.]+),([\d.]+)", points), float) for points in re.findall(r'points="([^"]*)"', chart)
    ]
    assert len(boxes) == 5
    feet = [box[:, 1].max() for box in boxes]
    for box, above in zip(boxes[1:], feet, strict=False):
        # None reaches into the one above it.
        assert box[:, 1].min() > above
    medians = re.findall(r'<line x1="([\d.]+)"[^>]*class="median"', chart)
    assert len(medians) == 4
    assert sorted(medians, key=float) == medians
    for name, column in list(values.items())[:4]:
        assert f"{name}</text>" in chart
        assert f"median {np.median(column):.3g}" in chart
    assert "&lt;b&gt;none" in chart


def test_selections_are_told_without_what_their_files_hold(tmp_path: Path) -> None:
    by_class = {"file": "refs.json", "classes": {"17": [123456]}}
    text = report(tmp_path / "a", make(tmp_path / "a", saliency={"selection": by_class}))["index.html"].text
    assert "by class;" in text
    assert "refs.json" in text
    assert "123456" not in text
    within = {"file": "taxa.csv", "level": "genus", "taxa": {"Passer": [123456]}}
    text = report(tmp_path / "b", make(tmp_path / "b", saliency={"selection": "top", "within": within}))[
        "index.html"
    ].text
    assert "by top within its genus;" in text
    assert "taxa.csv" in text
    assert "Passer" not in text


def test_the_median_stands_beside_the_mean_of_confidence_drops(tmp_path: Path) -> None:
    export = make(tmp_path, images=5, curves=("deletion",))
    lines = export.metrics.to_pylist()
    for line in lines:
        line["confidence_drop_05"] = -3000.0 if line["row"] == 0 else 0.125
    export.metrics = pa.Table.from_pylist(lines, METRICS)
    text = report(tmp_path, export)["index.html"].text
    table, charts = text.split("Does the comparison help?")
    assert table.count("median 0.125") == 2
    assert charts.count("median 0.125") == 2
