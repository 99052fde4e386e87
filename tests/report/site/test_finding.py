"""Finding images, in files: the list that pages' scripts read, pages for what is asked, the map of the embeddings."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import QueryError
from finer_ray.report.site import embedding_map as embeddings
from finer_ray.report.site import write_report
from finer_ray.report.site.asked import asked_for
from finer_ray.report.site.embedding_map import SPAN, embedding_map
from finer_ray.report.site.image_list import image_list, listing_script
from finer_ray.report.site.map_data import main_map
from finer_ray.report.site.page_sample import draw_sample
from finer_ray.report.site.site_writer import CARDS
from finer_ray.store.reading import Export
from tests.report.site.exports import make
from tests.report.site.test_report import Page, report

HOSTILE = "</script><script>alert(1)</script>\u2028"
OWN: dict[str, Any] = {
    "sex": ("text", lambda row: ["male", "female", None][row % 3]),
    "age": ("integer", lambda row: row if row % 4 else None),
    "wild": ("boolean", lambda row: row % 2 == 0),
    HOSTILE: ("text", lambda row: f"{HOSTILE}{row % 2}"),
    "note": ("text", lambda row: f"note {row}"),
    "never": ("null", lambda row: None),
}


def listed(folder: Path) -> dict[str, Any]:
    text = (folder / "assets" / "images.js").read_text(encoding="utf-8")
    assert text.startswith("window.finerRayImages=")
    found: dict[str, Any] = json.loads(text.removeprefix("window.finerRayImages=").removesuffix(";\n"))
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {field["name"]: field for field in found["fields"]}


def chosen(field: dict[str, Any]) -> list[str | None]:
    return [None if place is None else field["keys"][place] for place in field["values"]]


def test_the_list_says_what_the_tables_say(tmp_path: Path) -> None:
    export = make(tmp_path, images=9, lacking=[4], columns=OWN, saliency={"gamma": 0.6})
    write_report(export, tmp_path / "report")
    found = listed(tmp_path / "report")
    lines = export.images.to_pylist()
    assert found["rows"] == [line["row"] for line in lines]
    assert found["keys"] == [line["key"] for line in lines]
    assert found["label"] == [line["label"] for line in lines]
    fields = by_name(found)
    gaps = [
        line["logit"] - max(logit for logit in line["reference_logits"] if logit is not None) for line in lines
    ]  # fmt: skip
    np.testing.assert_allclose(fields["margin"]["values"], gaps, rtol=1e-5)
    metrics = {line["row"]: line for line in export.metrics.to_pylist() if line["map"] == main_map(export)}
    for name in ("localisation", "relative_drop_05"):
        expected = [metrics[row][name] for row in found["rows"]]
        np.testing.assert_allclose(fields[f"metric.{name}"]["values"], expected, rtol=1e-5)
        assert fields[f"metric.{name}"]["best"] == "high"
    # Nothing is said of what no image has.
    assert "metric.deletion_auc" not in fields
    assert "own.never" not in fields
    right = ["right" if line["label"] == line["predicted"] else "wrong" for line in lines]
    assert chosen(fields["verdict"]) == right
    assert chosen(fields["own.sex"]) == [line["sex"] for line in lines]
    assert chosen(fields["own.wild"]) == [str(line["wild"]).lower() for line in lines]
    assert fields["own.age"]["kind"] == "number"
    assert fields["own.age"]["values"] == [line["age"] for line in lines]


def test_metrics_that_are_better_low_are_known_as_such(tmp_path: Path) -> None:
    export = make(tmp_path, images=3)
    values = [0.5, 0.25, None] * 2
    table = export.metrics
    place = table.schema.get_field_index("deletion_auc")
    export.metrics = table.set_column(place, table.schema.field(place), pa.array(values, pa.float32()))
    found = by_name(image_list(export, [0, 1, 2], []))
    assert found["metric.deletion_auc"]["best"] == "low"
    finer = [line["deletion_auc"] for line in export.metrics.to_pylist() if line["map"] == main_map(export)]
    assert found["metric.deletion_auc"]["values"] == finer


def test_a_column_of_many_texts_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finer_ray.report.site.image_list.CHOICES", 5)
    export = make(tmp_path, images=6, columns=OWN)
    fields = by_name(image_list(export, list(range(6)), []))
    assert fields["own.note"]["kind"] == "text"
    assert fields["own.note"]["values"][2] == "note 2"
    assert fields["own.sex"]["kind"] == "choice"


def test_nothing_in_the_list_ends_a_script(tmp_path: Path) -> None:
    export = make(tmp_path, images=4, classes=(HOSTILE, "b", "c", "d"), columns=OWN, key=f"{HOSTILE}{{}}".format)
    write_report(export, tmp_path / "report")
    text = (tmp_path / "report" / "assets" / "images.js").read_text(encoding="utf-8")
    assert text.isascii()
    assert "<" not in text
    found = listed(tmp_path / "report")
    assert found["names"]["0"] == HOSTILE
    assert found["keys"][3] == f"{HOSTILE}3"
    assert f"own.{HOSTILE}" in by_name(found)


def test_numbers_without_a_value_are_null() -> None:
    assert listing_script({"a": [None, 1.5]}) == 'window.finerRayImages={"a":[null,1.5]};\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        listing_script({"a": float("nan")})


@pytest.mark.parametrize(
    ("wanted", "absent"),
    [
        ({"labels": False}, {"verdict", "label"}),
        ({"metrics": False}, {"metric.localisation"}),
        ({"references": 0, "maps": ("gradcam",)}, {"margin"}),
        ({"images": 1}, set()),
    ],
)
def test_what_an_export_lacks_is_no_field(tmp_path: Path, wanted: dict[str, Any], absent: set[str]) -> None:
    write_report(make(tmp_path, **wanted), tmp_path / "report")
    fields = by_name(listed(tmp_path / "report"))
    assert absent.isdisjoint(fields)
    assert "predicted" in fields


def test_an_export_without_images_has_an_empty_list(tmp_path: Path) -> None:
    found = report(tmp_path, make(tmp_path, images=0, failures=["gone"]))
    assert "No image was explained" in found["images.html"].text
    assert listed(tmp_path / "report")["rows"] == []


def test_the_page_holds_some_cards_and_the_list_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finer_ray.report.site.site_writer.CARDS", 4)
    found = report(tmp_path, make(tmp_path, images=6))
    links = [link for link in found["images.html"].links if link.startswith("images/") and link.endswith(".html")]
    # One more is the template's.
    assert links == [f"images/{row}.html" for row in (0, 1, 2, 3, 0)]
    assert "the first 4 images by row" in found["images.html"].text
    assert "5 of 6" in found["images/4.html"].text
    assert len(listed(tmp_path / "report")["rows"]) == 6
    assert re.findall(r"SLICE = (\d+)", asset("gallery.js")) == [str(CARDS)]


def asset(name: str) -> str:
    return (Path(embeddings.__file__).parent / "assets" / name).read_text(encoding="utf-8")


def test_pages_link_to_their_neighbours_by_row(tmp_path: Path) -> None:
    found = report(tmp_path, make(tmp_path, images=3))
    for row, around in ((0, {"1.html"}), (1, {"0.html", "2.html"}), (2, {"1.html"})):
        assert {link for link in found[f"images/{row}.html"].links if re.fullmatch(r"\d+\.html", link)} == around


# --where and --keys


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("asked"), images=24, columns=OWN, key="key {}".format)


@pytest.mark.parametrize(
    ("where", "meets"),
    [
        ("label <> predicted", lambda line, _: line["label"] != line["predicted"]),
        ("label = 1 AND localisation < 0.5", lambda line, value: line["label"] == 1 and value < 0.5),
        ("predicted_name = 'dog'", lambda line, _: line["predicted"] == 1),
        ("label_name = 'fox' AND age > 5", lambda line, _: line["label"] == 2 and (line["age"] or 0) > 5),
        ("sex IS NULL -- a comment", lambda line, _: line["sex"] is None),
        ("row IN (SELECT row FROM metrics WHERE map = 'gradcam' AND row > 20)", lambda line, _: line["row"] > 20),
        ("key LIKE '%3'", lambda line, _: line["key"].endswith("3")),
        ('"references"[1] = 2', lambda line, _: line["references"][0] == 2),
    ],
)  # fmt: skip
def test_a_condition_chooses_images(export: Export, where: str, meets: Any) -> None:
    values = {
        line["row"]: line["localisation"] for line in export.metrics.to_pylist() if line["map"] == main_map(export)
    }
    expected = [line["row"] for line in export.images.to_pylist() if meets(line, values[line["row"]])]
    assert expected
    found = asked_for(export, where)
    assert found is not None
    assert found.rows.tolist() == expected
    assert found.words == where


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("label <> predictd", r"(?s)predictd.*Columns: row, key,.*localisation"),
        ("1=1; DROP VIEW images", "is no condition"),
        ("true) UNION (SELECT 1", "is no condition"),
        ("", "is no condition"),
        ("key", "is no condition"),
        ("count(*) > 1", "is no condition"),
        ("row = (SELECT size FROM read_text('/etc/passwd'))", "file system operations are disabled"),
        ("row < 0", "none of the 24 images is one for which row < 0"),
    ],
)
def test_what_is_no_condition_is_said(export: Export, where: str, said: str) -> None:
    with pytest.raises(QueryError, match=said):
        asked_for(export, where)
    assert asked_for(export, "true") is not None


def test_keys_choose_images(export: Export, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_bytes("\ufeffkey 3\r\n\r\nkey 11\r\nno such key\r\n".encode())
    found = asked_for(export, None, file)
    assert found is not None
    assert found.rows.tolist() == [3, 11]
    assert found.words == "its key is one of 3 in keys.txt"
    both = asked_for(export, "row > 5", file)
    assert both is not None
    assert both.rows.tolist() == [11]
    file.write_text("no such key\n")
    with pytest.raises(QueryError, match="none of the 24 images is one for which its key is one of 1"):
        asked_for(export, None, file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QueryError, match="a text file with a key a line is needed"):
        asked_for(export, None, file)
    with pytest.raises(QueryError, match="a text file with a key a line is needed"):
        asked_for(export, None, tmp_path)
    assert asked_for(export) is None


def test_own_columns_hide_metrics_of_their_name(tmp_path: Path) -> None:
    columns = {"Localisation": ("integer", lambda row: row), 'a"b': ("text", str)}
    made = make(tmp_path, columns=columns)
    found = asked_for(made, 'localisation >= 4 AND "a""b" <> \'4\'')
    assert found is not None
    assert found.rows.tolist() == [5]


def test_pages_are_kept_to_what_is_asked(export: Export, tmp_path: Path) -> None:
    asked = asked_for(export, "label <> predicted")
    assert asked is not None
    sample = draw_sample(export, 3, 2, 0, asked)
    assert sample.rows == asked.rows[:3].tolist()
    assert set(sample.pages()) <= set(asked.rows.tolist())
    picked = {line["row"] for lines in sample.picks.values() for line in lines}
    assert picked
    wrong = [line for line in export.images.to_pylist() if line["label"] != line["predicted"]]
    counts = np.bincount([line["label"] for line in wrong])
    assert sorted(counts[sample.classes]) == sorted(counts)[-2:]
    write_report(export, tmp_path / "report", images=3, classes=0, asked=asked)
    for name in ("index.html", "images.html"):
        text = " ".join(Page(tmp_path / "report" / name).text.split())
        assert f"3 of {len(wrong)} images for which label <> predicted, the first by row; the other 21 are" in text
    assert listed(tmp_path / "report")["rows"] == asked.rows[:3].tolist()
    write_report(export, tmp_path / "report", images=3, classes=1, asked=asked)
    [page] = (tmp_path / "report" / "classes").iterdir()
    assert "Of its images for which label <> predicted." in " ".join(Page(page).text.split())


def test_command_asks(tmp_path: Path) -> None:
    make(tmp_path, images=12)
    folder, to = str(tmp_path / "out"), str(tmp_path / "report")
    (tmp_path / "keys").write_text("k2\nk7\n")
    done = CliRunner().invoke(
        app, ["report", folder, "--to", to, "--keys", str(tmp_path / "keys"), "--where", "row > 2"]
    )
    assert done.exit_code == 0, done.output
    assert "1 of 12 images: row > 2 and its key is one of 2 in keys" in done.output
    assert {path.name for path in (tmp_path / "report" / "images").glob("*.html")} == {"7.html"}
    done = CliRunner().invoke(app, ["report", folder, "--to", to, "--where", "row > 200"])
    assert isinstance(done.exception, QueryError)
    assert {path.name for path in (tmp_path / "report" / "images").glob("*.html")} == {"7.html"}


# The map of the embeddings


def fake(values: np.ndarray) -> Export:
    """As much of an export as has embeddings."""
    layout = SimpleNamespace(embedding=values.shape[1])
    return cast(
        Export,
        SimpleNamespace(manifest=SimpleNamespace(layout=layout), embedding=lambda rows: values[np.asarray(rows)]),
    )


def clustered(images: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    labels = np.arange(images) % classes
    values = 3 * random.standard_normal((classes, 16))[labels] + random.standard_normal((images, 16))
    return values.astype(np.float16), labels


def parted(places: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose nearest other is of their class."""
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return float((labels[distances.argmin(1)] == labels).mean())


def rows_of(values: Sequence[Any] | np.ndarray) -> list[int]:
    return list(range(len(values)))


def test_what_is_alike_lies_together_and_always_at_the_same_place() -> None:
    values, labels = clustered(60)
    first, again = (embedding_map(fake(values), rows_of(values)) for _ in range(2))
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first, again)
    assert first.min() == 0 or first.max() == SPAN
    assert (np.ptp(first, axis=0) <= SPAN).all()
    assert np.ptp(first, axis=0).max() == pytest.approx(SPAN, abs=1)
    assert parted(first, labels) > 0.95


def test_beyond_a_number_images_stand_beside_those_like_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "PLACED_BY_TSNE", 40)
    monkeypatch.setattr(embeddings, "BATCH", 50)
    values, labels = clustered(200)
    found = embedding_map(fake(values), rows_of(values))
    assert found is not None
    assert parted(found, labels) > 0.95


@pytest.mark.parametrize("images", [1, 2, 3, 8, 9])
def test_few_images_have_places(images: int) -> None:
    values, _ = clustered(images)
    found = embedding_map(fake(values), rows_of(values))
    assert found is not None
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= SPAN)).all()


@pytest.mark.parametrize("values", [np.ones((12, 4)), np.zeros((12, 4)), np.arange(12.0)[:, None] + 1])
def test_embeddings_that_tell_nothing_apart_have_places(values: np.ndarray) -> None:
    found = embedding_map(fake(values.astype(np.float16)), rows_of(values))
    assert found is not None
    assert np.isfinite(found).all()


def test_an_image_without_a_finite_embedding_has_no_place() -> None:
    values, _ = clustered(20)
    values[3] = np.inf
    values[7, 2] = np.nan
    found = embedding_map(fake(values), rows_of(values))
    assert found is not None
    assert np.flatnonzero(np.isnan(found).any(1)).tolist() == [3, 7]
    values[:] = np.nan
    assert embedding_map(fake(values), rows_of(values)) is None
    assert embedding_map(fake(values), []) is None


def test_the_report_has_the_map_or_says_why_not(tmp_path: Path) -> None:
    report(tmp_path, make(tmp_path, images=10, embedding=5))
    places = listed(tmp_path / "report")["map"]
    assert np.array(places).shape == (10, 2)
    first = (tmp_path / "report" / "assets" / "images.js").read_bytes()
    found = report(tmp_path, make(tmp_path / "again", images=10, embedding=5))
    assert (tmp_path / "report" / "assets" / "images.js").read_bytes() == first
    assert "Map of the embeddings" in found["images.html"].text
    found = report(tmp_path, make(tmp_path / "none"))
    assert listed(tmp_path / "report")["map"] is None
    assert "The export has no embeddings (output.embedding: false)" in found["images.html"].text
