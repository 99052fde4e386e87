"""Figures for a paper: their text is text, their fonts inside, and the same command writes the same bytes."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import QueryError
from finer_ray.report.image_figure import draw_image
from finer_ray.store.reading import open_export

SVG = "{http://www.w3.org/2000/svg}"


def figure(folder: Path, path: Path, *arguments: str) -> None:
    run = CliRunner().invoke(app, ["figure", str(folder / "demo_export"), "--to", str(path), *arguments])
    assert run.exit_code == 0, run.output
    assert run.stdout.strip() == str(path)


def test_text_of_an_svg_is_text(demo_like: Path, tmp_path: Path) -> None:
    figure(demo_like, tmp_path / "deep" / "a.svg", "--key", "p003")
    tree = ElementTree.parse(tmp_path / "deep" / "a.svg")  # noqa: S314 - ours
    said = " ".join("".join(text.itertext()) for text in tree.iter(f"{SVG}text"))
    assert "p003" in said
    assert "finer_gradcam" in said
    # Photo, Grad-CAM, Finer-CAM.
    assert len(list(tree.iter(f"{SVG}image"))) == 3


def test_fonts_of_a_pdf_are_inside(demo_like: Path, tmp_path: Path) -> None:
    figure(demo_like, tmp_path / "a.pdf", "--row", "3")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content


def test_a_png_is_sharp_enough_for_print(demo_like: Path, tmp_path: Path) -> None:
    figure(demo_like, tmp_path / "a.PNG", "--row", "3")
    with Image.open(tmp_path / "a.PNG") as picture:
        assert picture.format == "PNG"
        # Three pictures beside each other, 2.6 inches each.
        assert picture.width > 3 * 2.3 * 200


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_the_same_figure_has_the_same_bytes(
    demo_like: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_export(str(demo_like / "demo_export"))
    for name, date in (("a", "0"), ("b", "999999999")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
        draw_image(made, 3, tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["a.bmp", "a", "a.svgz"])
def test_another_suffix_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    run = CliRunner().invoke(app, ["figure", str(tmp_path / "no export"), "--row", "0", "--to", str(tmp_path / name)])
    assert isinstance(run.exception, QueryError)
    assert str(run.exception) == f"{name}: a figure is an .svg, .pdf or .png file, by its name's end"


@pytest.mark.parametrize("given", [[], ["--row", "1", "--key", "p003"], ["--row", "1", "--pair", "0", "1"]])
def test_one_thing_is_drawn(tmp_path: Path, given: list[str]) -> None:
    run = CliRunner().invoke(app, ["figure", str(tmp_path), "--to", "a.svg", *given])
    assert run.exit_code == 2
    assert "give one of --row, --key and --pair" in re.sub(r"[│\s]+", " ", run.output)


def test_without_its_photo_the_maps_are_drawn(demo_like: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved" / "demo_export"
    shutil.copytree(demo_like / "demo_export", copy)
    text = (copy / "export.json").read_text()
    (copy / "export.json").write_text(text.replace(str(demo_like / "in"), str(tmp_path / "gone")))
    run = CliRunner().invoke(app, ["figure", str(copy), "--row", "3", "--to", str(tmp_path / "a.svg")])
    assert run.exit_code == 0, run.output
    assert "photo is gone" in run.stderr
    assert len(list(ElementTree.parse(tmp_path / "a.svg").iter(f"{SVG}image"))) == 2  # noqa: S314 - ours
