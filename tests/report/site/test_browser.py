"""The report in a real Chromium, opened from disk: what is drawn, what is asked of the network, what keys do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from finer_ray.report.site import write_report
from finer_ray.report.site.colours import colour_table
from finer_ray.store.reading import Export
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser, chromium
from tests.report.site.exports import SIZE, make

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("report"), images=6, lacking=[1], saliency={"gamma": 0.6})


@pytest.fixture(scope="module")
def folder(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(export, tmp_path_factory.mktemp("site") / "report").parent


@pytest.fixture
def browser(driver: webdriver.Chrome, folder: Path) -> Iterator[Browser]:
    driver.get_log("browser"), driver.get_log("performance")
    found = Browser(driver, folder)
    found.window(1200, 900)
    found.scheme("light")
    yield found
    assert found.complaints() == []


def coloured(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The colours of a map, and those of the nearest other level, for values that lie on the border of two."""
    scaled = 256 * values.astype(np.float64) / values.max()
    table = colour_table(name)
    levels = [np.clip(np.floor(scaled + shift), 0, 255).astype(int) for shift in (1e-3, -1e-3)]
    return table[levels[0]], table[levels[1]]


ASKED: list[dict[str, Any]] = [
    {},
    {"gamma": -1.0},
    {"gamma": 0.0},
    {"gamma": 1.35},
    {"gamma": 3.0},
    {"gamma": 2.0, "references": [1]},
    {"gamma": 0.8, "references": [0, 2]},
    {"gamma": 0.8, "references": []},
    {"reverse": True},
    {"gamma": 0.0, "reverse": True},
    {"references": [], "reverse": True},
    {"gamma": 1.2, "aggregation": "max_before_relu"},
    {"gamma": 1.2, "aggregation": "mean_after_relu", "references": [0, 1]},
    {"gamma": 0.5, "aggregation": "max_before_relu", "reverse": True},
    {"gamma": 0.9, "weighting": "probability"},
    {"gamma": 0.9, "weighting": "probability_detached", "references": [1, 2], "aggregation": "mean_after_relu"},
]


@pytest.mark.parametrize("row", [0, 1])
def test_live_map_is_the_export_s_contrast(browser: Browser, export: Export, row: int) -> None:
    """Row 1 lacks its last reference."""
    browser.open(f"images/{row}.html")
    zero = 0
    for asked in ASKED:
        browser.set("gamma", asked.get("gamma", 0.6))
        for place in range(3 if row != 1 else 2):
            browser.set(f"reference-{place}", place in asked.get("references", [0, 1, 2]))
        for name in ("aggregation", "weighting"):
            browser.set(name, asked.get(name, {"aggregation": "mean_before_relu", "weighting": "equal"}[name]))
        browser.set("reverse", asked.get("reverse", False))
        expected = export.contrast([row], size=SIZE, **asked)[0]
        np.testing.assert_allclose(browser.map(), expected, atol=1e-5 * max(1, expected.max()), err_msg=str(asked))
        pixels = browser.pixels()
        assert (pixels[..., 3] == 255).all()
        if expected.max() == 0:
            zero += 1
            assert (pixels[..., :3] == colour_table("inferno")[0]).all()
            continue
        above, below = coloured(expected, "inferno")
        assert ((pixels[..., :3] == above) | (pixels[..., :3] == below)).all(), asked
    assert zero < 3


def test_slider_moves_by_keys_and_redraws_at_once(browser: Browser, export: Export) -> None:
    browser.open("images/2.html")
    before = browser.pixels()
    slider = browser.driver.find_element(By.ID, "gamma")
    for _ in range(80):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        if browser.driver.switch_to.active_element.get_attribute("id") == "gamma":
            break
    assert browser.driver.switch_to.active_element == slider
    assert browser.driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", slider) != "none"
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    assert browser.text("gamma-value") == "0.75"
    np.testing.assert_allclose(browser.map(), export.contrast([2], gamma=0.75, size=SIZE)[0], atol=1e-5)
    assert not np.array_equal(browser.pixels(), before)
    slider.send_keys(Keys.END)
    assert browser.text("gamma-value") == "3.00"
    browser.driver.find_element(By.ID, "reverse").send_keys(Keys.SPACE)
    expected = export.contrast([2], gamma=3.0, reverse=True, size=SIZE)[0]
    np.testing.assert_allclose(browser.map(), expected, atol=1e-5)
    assert "rather than" in browser.text("question")


def test_colours_opacity_and_stored_maps(browser: Browser, export: Export) -> None:
    browser.open("images/0.html")
    for name in ("viridis", "cividis", "inferno"):
        browser.set("colours", name)
        above, below = coloured(export.contrast([0], size=SIZE)[0], name)
        pixels = browser.pixels()[..., :3]
        assert ((pixels == above) | (pixels == below)).all()
    for name in ("finer_gradcam", "gradcam"):
        browser.set("stored", name)
        above, below = coloured(export.maps([0], name, size=SIZE)[0], "inferno")
        pixels = browser.pixels("stored-map")[..., :3]
        assert ((pixels == above) | (pixels == below)).all()
    browser.set("opacity", 0.25)
    style = "return getComputedStyle(document.getElementById('live-map')).opacity"
    assert float(browser.driver.execute_script(style)) == 0.25


def test_settings_follow_to_the_next_image_by_keys(browser: Browser, export: Export) -> None:
    browser.open("images/0.html")
    browser.set("gamma", 2.0)
    browser.set("colours", "cividis")
    browser.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_RIGHT)
    assert browser.driver.current_url.split("#")[0].endswith("images/1.html")
    np.testing.assert_allclose(browser.map(), export.contrast([1], gamma=2.0, size=SIZE)[0], atol=1e-5)
    assert browser.driver.find_element(By.ID, "colours").get_attribute("value") == "cividis"
    browser.driver.find_element(By.ID, "reset").click()
    np.testing.assert_allclose(browser.map(), export.contrast([1], gamma=0.6, size=SIZE)[0], atol=1e-5)


def test_light_dark_and_phone(browser: Browser) -> None:
    """Pages fit a phone without sideways scrolling; text keeps its contrast either way; the button turns the page."""
    colours = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    seen = set()
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.window(360, 740, phone=True)
        for page in ("index.html", "images.html", "classes/0.html", "images/0.html"):
            browser.open(page)
            assert browser.driver.execute_script(WIDER) <= 0, page
        back, ink = (luminance(text) for text in browser.driver.execute_script(colours))
        assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) > 7
        seen.add(back > ink)
        browser.driver.find_element(By.ID, "theme").click()
        turned = [luminance(text) for text in browser.driver.execute_script(colours)]
        assert (turned[0] > turned[1]) != (back > ink)
        browser.driver.execute_script("localStorage.clear()")
    assert seen == {True, False}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_closed_to_anybody(browser: Browser, scheme: str) -> None:
    browser.scheme(scheme)
    for page in ("index.html", "images.html", "classes/0.html", "images/0.html"):
        browser.open(page)
        assert browser.violations() == [], page


def test_tables_sort_and_are_searched(browser: Browser, export: Export) -> None:
    browser.open("index.html")
    counts = "return [...document.querySelectorAll('#class-table tbody tr')].map(r => Number(r.cells[1].dataset.value))"
    button = browser.driver.find_elements(By.CSS_SELECTOR, "#class-table th button")[1]
    button.send_keys(Keys.ENTER)
    down = browser.driver.execute_script(counts)
    button.send_keys(Keys.ENTER)
    assert down == sorted(down, reverse=True)
    assert browser.driver.execute_script(counts) == sorted(down)
    browser.driver.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("dog")
    assert browser.text("classes-found") == "1 of 3"


@pytest.mark.parametrize("wanted", [{"basis": False}, {"references": 0, "maps": ("gradcam",)}, {"labels": False}])
def test_exports_that_lack_something(
    driver: webdriver.Chrome, browser: Browser, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    """Among them photos that are gone: maps alone are drawn."""
    export = make(tmp_path, images=2, **wanted)
    (tmp_path / "in" / "a.tar").unlink()
    other = Browser(driver, write_report(export, tmp_path / "report").parent)
    for page in ("index.html", "images.html", "images/1.html"):
        other.open(page)
    name = export.manifest.layout.maps[-1]
    other.set("stored", name)
    above, below = coloured(export.maps([1], name, size=SIZE)[0], "inferno")
    pixels = other.pixels("stored-map")[..., :3]
    assert ((pixels == above) | (pixels == below)).all()


def luminance(text: str) -> float:
    """Relative luminance (WCAG 2) of a colour like rgb(1, 2, 3)."""
    values = np.array([int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
