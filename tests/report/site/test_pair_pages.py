"""Pair pages: which pairs get one, whose numbers they show, what is cut from the photos, and what the slider draws."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from finer_ray.pairs.table import news
from finer_ray.report.pair_figure import CLOSE_UP, ENLARGED, centre, close_up
from finer_ray.report.photos import try_rows
from finer_ray.report.site import write_report
from finer_ray.report.site.pair_choice import choose_pairs, in_turn, tells
from finer_ray.report.site.pair_data import DRAWN, mean_maps, pair_data
from finer_ray.report.site.pair_pages import CROPS, PairPage, pair_pages, told_by, wanted_rows
from finer_ray.store import derived
from finer_ray.store.reading import Export, open_export
from finer_ray.traits import Settings, Trait, all_traits, pair_traits, trait_table
from finer_ray.traits.images import read_index
from finer_ray.traits.trait import Shown
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser
from tests.report.site.exports import GRID, SIZE, make
from tests.report.site.test_report import HOSTILE, Page, pages, report

# 0 to 3 of a grid 3 x 4 show: nothing, a bill, a wing, nothing.
PARTS = ("bill", "wing")
WHOLE: dict[str, Any] = {"images": 24, "patches": 6, "parts": PARTS}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("pairs"), **WHOLE)


@pytest.fixture(scope="module")
def folder(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(export, tmp_path_factory.mktemp("site") / "report", images=2, classes=2, pairs=4).parent


def percent(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def test_numbers_are_those_of_the_tables(export: Export, folder: Path) -> None:
    images = export.images.to_pylist()
    found = pair_pages(export, 4)
    assert len(found) == 4
    for page in found:
        text, (a, b) = Page(folder / "pairs" / f"{page.name}.html").text, page.pair.classes
        for one, other in ((a, b), (b, a)):
            traits = [trait for trait in pair_traits(export, one, other) if tells(trait)]
            if traits:
                first = traits[0]
                assert f"{percent(first.mass)} of the evidence. In {percent(first.prevalence_a or 0)} of its" in text
            wrong = [line["row"] for line in images if (line["label"], line["predicted"]) == (one, other)]
            assert page.pair.confused[page.pair.classes.index(one)] == len(wrong)
            assert set(page.wrong[one]) <= set(wrong)
            assert bool(page.wrong[one]) == bool(wrong)
            known = [line["row"] for line in images if line["target"] == one and other in line["references"]]
            assert page.compared[one] == known


def test_shared_traits_are_of_gamma_minus_1(export: Export) -> None:
    for page in pair_pages(export, 4):
        rows = page.groups["shared", page.pair.a]
        assert rows
        known = pair_traits(export, *page.pair.classes, kind="shared", resamples=0)
        assert [row.trait for row in rows] == [trait for trait in known if trait in [row.trait for row in rows]]
        for row in rows:
            for side, places in row.crops.items():
                assert {export.images["target"][place.row].as_py() for place in places} <= {side}


def test_tables_of_an_earlier_run_give_the_same_pages_and_nothing_is_written(tmp_path: Path) -> None:
    export = make(tmp_path, **WHOLE)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    computed = pair_pages(export, 6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    table = news(export)
    assert table is not None
    derived.write(export, "pairs", table)
    derived.write(export, "traits", trait_table(all_traits(export, Settings(resamples=0)), export.manifest.classes))
    read = pair_pages(open_export(export.folder.url), 6)
    assert [replace(page, told=None) for page in read] == [replace(page, told=None) for page in computed]
    for one, other in zip(read, computed, strict=True):
        assert one.told == pytest.approx(other.told) if one.told is None else one.told[0] == other.told[0]  # type: ignore[index]


def test_pairs_come_in_turn_and_are_bounded(export: Export) -> None:
    index = read_index(export)
    every, _ = choose_pairs(export, index, 99)
    assert [pair.telling for pair in every] == sorted((pair.telling for pair in every), reverse=True)
    assert all(pair.a < pair.b for pair in every)
    assert len({pair.classes for pair in every}) == len(every)
    [only], _ = choose_pairs(export, index, 1)
    assert only.mistakes == max(pair.mistakes for pair in every) > 0
    assert pair_pages(export, 0) == []
    assert in_turn([[], [(1, 2)], []], 5) == [(1, 2)]


def test_what_is_as_frequent_in_the_other_class_tells_nothing() -> None:
    trait = Trait("pair", 0, 1, mass=0.5, prevalence_a=0.5, prevalence_b=0.5, part="bill")
    assert not tells(trait)
    assert tells(replace(trait, prevalence_b=0.4))
    assert tells(replace(trait, prevalence_b=None))
    assert told_by([[], []]) is None
    assert told_by([[replace(trait, part=None)], []]) == (None, 0.5)
    both = [[trait, replace(trait, part="wing", mass=0.1)], [replace(trait, part="wing", mass=0.5)]]
    assert told_by(both) == ("wing", pytest.approx(0.3))


def test_the_other_s_crops_show_the_same_part(export: Export) -> None:
    checked = 0
    for page in pair_pages(export, 4):
        for (kind, one), rows in page.groups.items():
            other = sum(page.pair.classes) - one
            for row in rows:
                if kind == "pair" and row.like == "part":
                    for place in row.crops[other]:
                        assert place.cell is not None
                        [shown] = export.parts([place.row])[0].reshape(-1)[[place.cell]]
                        assert export.part_names[shown - 1] == row.trait.part
                        assert export.images["label"][place.row].as_py() == other
                        assert not place.mistaken
                        checked += 1
    assert checked >= CROPS


def test_photos_of_a_class_are_of_that_class_and_others_are_marked(export: Export, folder: Path) -> None:
    label = export.images["label"].to_pylist()
    marked = 0
    for page in pair_pages(export, 4):
        assert all(label[place.row] == one for one, place in page.heroes.items())
        text = Page(folder / "pairs" / f"{page.name}.html").text
        for rows in page.groups.values():
            for row in rows:
                for one, places in row.crops.items():
                    assert [place.mistaken for place in places] == sorted(label[place.row] != one for place in places)
        mistaken = [place for place in page.places if place.mistaken]
        assert ("it is labelled otherwise" in text) == bool(mistaken)
        marked += len(mistaken)
    assert marked


def test_without_parts_the_other_s_crops_are_what_is_most_similar(tmp_path: Path) -> None:
    export = make(tmp_path, images=24, patches=6)
    page = pair_pages(export, 1)[0]
    [(one, row)] = [(one, rows[0]) for (kind, one), rows in page.groups.items() if kind == "pair" and rows][:1]
    assert (row.name, row.like) == (f"trait {row.trait.rank}", "features")
    other = sum(page.pair.classes) - one

    def seen(rows: list[int], wanted: list[int | None]) -> np.ndarray:
        cells, features = export.patches(rows)
        return np.stack(
            [mine[list(known).index(cell)] for mine, known, cell in zip(features, cells, wanted, strict=True)]
        )

    mean = seen([cell.row for cell in row.trait.cells], [cell.cell for cell in row.trait.cells]).mean(0)
    places = row.crops[other]
    found = seen([place.row for place in places], [place.cell for place in places]) @ mean
    of_class = [line["row"] for line in export.images.to_pylist() if line["label"] == other]
    among = sorted({*of_class} & {*page.compared[other]}) or of_class
    best = np.sort((export.patches(among)[1] @ mean).max(1))[::-1]
    assert found == pytest.approx(best[: len(found)], abs=1e-6)


def test_crops_are_cut_around_their_cells_at_one_scale(export: Export, folder: Path) -> None:
    page = pair_pages(export, 4)[0]
    here = export.manifest.layout.registration
    assert here is not None
    photos = dict(try_rows(export, [place.row for place in page.places], region=False, enlarged=ENLARGED))
    sizes = set()
    for place in page.places:
        photo = photos[place.row]
        assert not isinstance(photo, str)
        assert place.cell is not None
        around = centre(Shown(place.row, place.cell, 0.0), GRID[1], here)
        wanted = Image.fromarray(close_up(photo.image, around, CLOSE_UP * ENLARGED * max(here.stride)))
        with Image.open(folder / "pairs" / f"{page.name}-{place.number}.jpg") as crop:
            sizes.add(crop.size)
            smaller = wanted.resize(crop.size, Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(smaller, float) - np.asarray(crop, float)).mean() < 8
    assert len(sizes) == 1


def test_means_are_those_of_the_basis(export: Export) -> None:
    page = pair_pages(export, 1)[0]
    for one in page.pair.classes:
        rows, other = page.compared[one], sum(page.pair.classes) - one
        basis = np.asarray(export.basis(rows), np.float64)
        places = [1 + export.images["references"][row].as_py().index(other) for row in rows]
        by_hand = np.stack([basis[:, 0].mean(0), basis[np.arange(len(rows)), places].mean(0)])
        assert mean_maps(export, rows, other) == pytest.approx(by_hand, abs=1e-6)
    data = pair_data(export, page)
    assert data is not None
    assert set(data["images"]) <= set(wanted_rows([page]))
    assert {max(entry["size"]) for entry in data["images"].values()} == {min(DRAWN, max(SIZE))}


def test_pages_lead_to_the_pair_and_back(export: Export, folder: Path) -> None:
    found = pages(folder)
    made = {page.pair.classes: page for page in pair_pages(export, 4)}
    for line in export.images.to_pylist():
        page = found.get(f"images/{line['row']}.html")
        if page is not None and line["label"] != line["predicted"]:
            both = tuple(sorted((line["label"], line["predicted"])))
            assert (f"../pairs/{both[0]}-{both[1]}.html" in page.links) == (both in made)
    for a, b in made:
        assert f"pairs/{a}-{b}.html" in found["index.html"].links
        page = found[f"pairs/{a}-{b}.html"]
        assert {f"../images/{row}.html" for row in made[a, b].shown} <= set(page.links)
    shown = {int(name[8:-5]) for name in found if name.startswith("classes/")}
    for one in shown:
        leads = {link for link in found[f"classes/{one}.html"].links if "pairs/" in link}
        assert leads - {"../pairs.html"} == {f"../pairs/{a}-{b}.html" for a, b in made if one in (a, b)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"labels": False}, "what is confused is not known"),
        ({"basis": False, "patches": 0}, "The export has no contrast basis"),
        ({"patches": 0}, "the export holds no features of its cells"),
        ({"patches": 1, "parts": ()}, "carries much of the evidence"),
        ({"metrics": False, "regions": False}, "What tells"),
        ({"lacking": range(24)}, "What tells"),
        ({"classes": ("cat", "dog", "red bill", "wing"), "concepts": 2, "references": 1}, "What tells"),
        ({"classes": (HOSTILE, '"><img src=x onerror=y>', "{{ 7 * 7 }}", 'd\'og" onclick="z')}, "What tells"),
        ({"parts": (HOSTILE, "{{ 7 * 7 }}")}, "What tells"),
    ],
)
def test_what_is_missing_becomes_a_sentence(tmp_path: Path, wanted: dict[str, Any], said: str) -> None:
    parts = {} if wanted.get("patches") == 0 else {"parts": PARTS}
    found = report(tmp_path, make(tmp_path, **({"images": 24, "patches": 6} | parts | wanted)), images=1, classes=1)
    texts = [page.text for name, page in found.items() if name.startswith("pairs/")]
    assert texts
    assert any(said in text for text in texts)
    names = [path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report" / "pairs").iterdir()]
    assert all(re.fullmatch(r"pairs/\d+-\d+(\.html|-\d+(-lit)?\.jpg)", name) for name in names)
    # What stands is a report, and may be replaced.
    write_report(open_export(str(tmp_path / "out")), tmp_path / "report", images=1, classes=1, pairs=1)


@pytest.mark.parametrize("wanted", [{"references": 0, "labels": False, "maps": ("gradcam",)}, {"images": 0}])
def test_where_there_is_no_pair_there_is_no_word_of_it(tmp_path: Path, wanted: dict[str, Any]) -> None:
    found = report(tmp_path, make(tmp_path, **wanted))
    assert "pairs.html" not in found
    assert not any("pairs" in link for page in found.values() for link in page.links if not link.endswith(".js"))


def test_photos_that_are_gone_leave_numbers_and_maps(tmp_path: Path) -> None:
    export = make(tmp_path, **WHOLE)
    (tmp_path / "in" / "a.tar").unlink()
    found = report(tmp_path, export, images=1, classes=1)
    [first, *_] = [page for name, page in found.items() if name.startswith("pairs/")]
    assert "photo not at hand" in first.text
    assert "of the evidence" in first.text
    assert not list((tmp_path / "report" / "pairs").glob("*.jpg"))


# The maps on their own grids, once the frame is drawn.
GRIDS = """
requestAnimationFrame(() => setTimeout(() => arguments[0](Object.fromEntries(
  Object.entries(finerRay.shown).map(([name, group]) =>
    [name, Object.fromEntries(group.map((one) => [one.key, Array.from(one.map)]))])))))
"""


@pytest.fixture(scope="module")
def page(export: Export) -> PairPage:
    return pair_pages(export, 4)[0]


def marked(function: Any) -> Any:
    for mark in IN_A_BROWSER:
        function = mark(function)
    return function


@marked
@pytest.mark.parametrize("gamma", [None, -1.0, 0.0, 1.35, 3.0])
def test_all_maps_follow_gamma(browser: Browser, export: Export, page: PairPage, gamma: float | None) -> None:
    browser.open(f"pairs/{page.name}.html")
    if gamma is not None:
        browser.set("gamma", gamma)
    drawn = browser.driver.execute_async_script(GRIDS)
    asked = 1.0 if gamma is None else gamma
    assert browser.text("gamma-value") == f"{asked:.2f}".replace("-", "−")
    lines = {line["row"]: line for line in export.images.to_pylist()}
    assert drawn["images"]
    for row, values in ((int(key), values) for key, values in drawn["images"].items()):
        [other] = set(page.pair.classes) - {lines[row]["target"]}
        by_hand = export.contrast([row], asked, references=[lines[row]["references"].index(other)])[0]
        assert np.array(values).reshape(GRID) == pytest.approx(by_hand, abs=1e-5)
    for one, values in ((int(key), values) for key, values in drawn["means"].items()):
        own, other_maps = mean_maps(export, page.compared[one], sum(page.pair.classes) - one)
        # The means are stored with half precision, as the basis is.
        near = (1 + abs(asked)) * 2**-11 * max(np.abs(own).max(), np.abs(other_maps).max())
        assert np.array(values).reshape(GRID) == pytest.approx((own - asked * other_maps).clip(0), abs=near)


@marked
def test_gamma_is_in_the_address_and_follows_keys_and_buttons(browser: Browser, page: PairPage) -> None:
    browser.open(f"pairs/{page.name}.html#gamma=2.5")
    assert browser.text("gamma-value") == "2.50"
    slider = browser.driver.find_element(By.ID, "gamma")
    slider.send_keys(Keys.ARROW_LEFT)
    browser.driver.execute_async_script(GRIDS)
    assert browser.text("gamma-value") == "2.45"
    assert browser.driver.execute_script("return location.hash") == "#gamma=2.45"
    browser.driver.find_element(By.CSS_SELECTOR, "button[data-gamma='1']").send_keys(Keys.ENTER)
    browser.driver.execute_async_script(GRIDS)
    assert browser.driver.execute_script("return location.hash") == ""


@marked
def test_printed_pages_say_the_gamma(browser: Browser, page: PairPage) -> None:
    browser.open(f"pairs/{page.name}.html#gamma=2.5")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.text("gamma-value") == "2.50"
        assert "against the other" in browser.text("meaning")
        assert not browser.driver.find_element(By.ID, "gamma").is_displayed()
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@marked
def test_maps_out_of_sight_are_drawn_when_the_slider_rests(browser: Browser, page: PairPage) -> None:
    browser.open(f"pairs/{page.name}.html")
    browser.set("gamma", -1.0)
    fresh = """
    const wait = () => finerRay.shown.images.every((one) => one.fresh) ? arguments[0](true) : setTimeout(wait, 20);
    requestAnimationFrame(() => requestAnimationFrame(wait));
    """
    assert browser.driver.execute_async_script(fresh)
    lit = """
    return [...document.querySelectorAll("canvas[data-row]")].map((canvas) =>
      canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0))
    """
    assert all(browser.driver.execute_script(lit))


@marked
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200, 1920])
def test_pair_pages_are_accessible_and_fit(browser: Browser, page: PairPage, scheme: str, width: int) -> None:
    browser.scheme(scheme)
    browser.window(width, 900, phone=width < 600)
    for name in (f"pairs/{page.name}.html", "pairs.html", "index.html"):
        browser.open(name)
        assert browser.violations() == []
        assert browser.driver.execute_script(WIDER) == 0
