"""One image's maps, drawn; answers for the screen and for programs."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import ExportError, QueryError
from finer_ray.report.image_figure import draw_image, find_row
from finer_ray.report.query_result import EXAMPLES
from finer_ray.store.reading import open_export


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_keys_lead_to_rows(demo_like: Path) -> None:
    made = open_export(str(demo_like / "demo_export"))
    assert find_row(made, "p003") == 3
    with pytest.raises(QueryError, match=r"nearest: p0\d\d, ") as none:
        find_row(made, "p03")
    assert "p003" in str(none.value)
    with pytest.raises(QueryError, match=r"2 images have the key(.|\n)*--row 10: .*a\.tar\n  --row 16: .*b\.tar"):
        find_row(made, "twice")
    with pytest.raises(QueryError, match=r"'bad' could not be explained:\n.*a\.tar: decode: "):
        find_row(made, "bad")


def test_a_gamma_changes_the_picture_of_that_gamma_only(demo_like: Path, tmp_path: Path) -> None:
    made = open_export(str(demo_like / "demo_export"))
    for gamma in (0.0, 1.0):
        assert draw_image(made, 3, tmp_path / f"{gamma}.png", ["gradcam"], [gamma]) == ""
    low, high = pixels(tmp_path / "0.0.png"), pixels(tmp_path / "1.0.png")
    assert low.shape == high.shape
    third = low.shape[1] // 3
    below = low.shape[0] // 2
    assert (low[below:, : 2 * third] == high[below:, : 2 * third]).all()
    # Gamma 0 is the Grad-CAM map, which stands beside it; gamma 1 is another.
    assert np.abs(low[below:, 2 * third :] - high[below:, 2 * third :]).max() > 50


def test_what_cannot_be_drawn_is_said(demo_like: Path, tmp_path: Path) -> None:
    made = open_export(str(demo_like / "demo_export"))
    with pytest.raises(ExportError, match="it has gradcam, finer_gradcam"):
        draw_image(made, 0, tmp_path / "x.png", ["layercam"])
    with pytest.raises(QueryError, match="no image has the row 11"):
        draw_image(made, 11, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_without_its_photo_the_maps_are_drawn(demo_like: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved" / "demo_export"
    shutil.copytree(demo_like / "demo_export", copy)
    text = (copy / "export.json").read_text()
    (copy / "export.json").write_text(text.replace(str(demo_like / "in"), str(tmp_path / "gone")))
    path = tmp_path / "deep" / "maps.png"
    run = CliRunner().invoke(app, ["show", str(copy), "p003", "--to", str(path)])
    assert run.exit_code == 0, run.output
    assert "photo is gone" in run.stderr
    drawn = pixels(path)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100


def ask(folder: Path, *arguments: str) -> str:
    run = CliRunner().invoke(app, ["query", str(folder / "demo_export"), *arguments])
    assert run.exit_code == 0, run.output
    return run.stdout


def test_answers_for_programs_are_the_tables(demo_like: Path) -> None:
    made = open_export(str(demo_like / "demo_export"))
    sql = 'SELECT key, "references", localisation, probability FROM images JOIN metrics USING (row) ORDER BY row, map'
    lines = [json.loads(line) for line in ask(demo_like, sql, "--format", "json").splitlines()]
    assert len(lines) == 2 * made.images.num_rows == 24
    assert {line["key"]: line["references"] for line in lines} == dict(
        zip(made.images["key"].to_pylist(), made.images["references"].to_pylist(), strict=True)
    )
    assert [line["localisation"] is None for line in lines] == [False] * 20 + [True] * 2 + [False] * 2
    rows = list(csv.DictReader(io.StringIO(ask(demo_like, sql, "--format", "csv"))))
    assert [float(row["probability"]) for row in rows] == [line["probability"] for line in lines]
    assert ask(demo_like, "SELECT 'nan'::FLOAT AS x, [1, 'inf'::FLOAT] AS y", "--format", "json") == (
        '{"x": null, "y": [1.0, null]}\n'
    )
    run = CliRunner().invoke(app, ["query", str(demo_like / "demo_export"), sql, "--format", "parquet"])
    assert pq.read_table(io.BytesIO(run.stdout_bytes))["key"].to_pylist() == [line["key"] for line in lines]


def test_answers_for_the_screen_are_bounded(demo_like: Path) -> None:
    sql = "SELECT key FROM images ORDER BY row"
    short = ask(demo_like, sql, "--rows", "3")
    assert "p002" in short
    assert "p003" not in short
    assert "the first 3 rows" in short
    for rows in ("12", "0"):
        assert "the first" not in ask(demo_like, sql, "--rows", rows)
    assert "\\x1b" in ask(demo_like, "SELECT chr(27) || '[31m[bold]red' AS key")
    assert "[bold]red" in ask(demo_like, "SELECT '[bold]red' AS key")


def test_without_sql_it_says_what_there_is_and_its_examples_work(demo_like: Path) -> None:
    said = ask(demo_like)
    for word in ("images", "metrics", "reference_logits", "names", "1000", "24"):
        assert word in said
    assert all(example in said for example in EXAMPLES)
    by_class, unsure = (ask(demo_like, example) for example in EXAMPLES)
    assert "finer_gradcam" in by_class
    assert unsure.count("p00") + unsure.count("twice") == 5


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nothing FROM images", 'Referenced column "nothing" not found'),
        ("SELEC 1", "syntax error"),
        ("SELECT error(key) FROM images", "p000"),
        (
            "FROM read_text('/etc/hostname')",
            "images, metrics, classes, failures, similarity, targets, target_metrics, pairs, traits, names",
        ),
        ("SET threads = 1", "locked"),
        ("/* nothing */", "no statement"),
    ],
)
def test_wrong_sql_is_one_message(demo_like: Path, sql: str, message: str) -> None:
    run = CliRunner().invoke(app, ["query", str(demo_like / "demo_export"), sql])
    assert isinstance(run.exception, QueryError), run.exception
    assert message in str(run.exception)
