"""The report in a real Chromium, opened from disk: what is drawn, what is asked of the network, what keys do."""

import base64
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from finer_ray.report.colours import NAMES, colour_table
from finer_ray.report.overlay import STRENGTH, layer_table, overlay
from finer_ray.report.photos import read_photos
from finer_ray.report.site import write_report
from finer_ray.store.reading import Export
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser
from tests.report.site.exports import SIZE, make

pytestmark = IN_A_BROWSER


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("report"), images=6, lacking=[1], saliency={"gamma": 0.6})


@pytest.fixture(scope="module")
def folder(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(export, tmp_path_factory.mktemp("site") / "report").parent


def opaque(browser: Browser) -> None:
    """Each map by itself, in colours without the photo's."""
    for name, value in (("mode", "full"), ("opacity", 1), ("scale", "own")):
        browser.set(name, value)


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
    opaque(browser)
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


def test_colours_and_stored_maps(browser: Browser, export: Export) -> None:
    browser.open("images/0.html")
    opaque(browser)
    for name in ("viridis", "cividis", "inferno"):
        browser.set("colours", name)
        above, below = coloured(export.contrast([0], size=SIZE)[0], name)
        pixels = browser.pixels()[..., :3]
        assert ((pixels == above) | (pixels == below)).all()
    for name in ("finer_gradcam", "gradcam"):
        browser.set("beside", f"stored:{name}")
        above, below = coloured(export.maps([0], name, size=SIZE)[0], "inferno")
        pixels = browser.pixels("beside-map")[..., :3]
        assert ((pixels == above) | (pixels == below)).all()


def test_the_layer_is_the_one_of_python(browser: Browser) -> None:
    """Colour and opacity at all levels, to the last bit."""
    browser.open("images/0.html")
    table = (
        "const [mode, colours, strength] = arguments; const {layerTable, palettes} = window.finerRay;"
        "return Array.from(new Uint8Array(layerTable({mode, colours: palettes[colours], strength}).buffer))"
    )
    for mode in ("heat", "hot", "full"):
        for colours in NAMES:
            for strength in (0, 0.35, STRENGTH, 1):
                found = browser.driver.execute_script(table, mode, colours, strength)
                np.testing.assert_array_equal(np.reshape(found, (256, 4)), layer_table(mode, colours, strength))


@pytest.mark.parametrize("mode", ["heat", "hot", "full"])
def test_a_map_over_the_photo_is_python_s(browser: Browser, export: Export, mode: str) -> None:
    browser.open("images/2.html")
    browser.set("mode", mode)
    [photo], heat = read_photos(export, [2]), export.contrast([2], size=SIZE)[0]
    beside = export.maps([2], "gradcam", size=SIZE)
    peak = max(float(map.max()) for map in (heat, beside, export.contrast([2], 0, size=SIZE)))
    # A canvas holds colours times their opacities, so those that hardly show are rounded; levels may be one beside.
    layer = browser.pixels() / 255
    seen = (1 - layer[..., 3:]) * (photo / 255) + layer[..., 3:] * layer[..., :3]
    np.testing.assert_allclose(seen, overlay(photo, heat, mode, peak), atol=3.1 / 255)


def test_maps_side_by_side_have_one_scale(browser: Browser, export: Export) -> None:
    """Gamma 3 leaves little of the map, and little of the colours."""
    browser.open("images/0.html")
    peaks = {gamma: float(export.contrast([0], gamma, size=SIZE).max()) for gamma in (0, 0.6, 3)}
    stored = float(export.maps([0], "gradcam", size=SIZE).max())
    for gamma in (0.6, 3):
        browser.set("gamma", gamma)
        ends = [float(browser.text(f"{kind}-high")) for kind in ("live", "beside")]
        assert ends == pytest.approx([max(peaks[0], peaks[gamma], stored)] * 2, rel=0.005)
    browser.set("scale", "own")
    ends = [float(browser.text(f"{kind}-high")) for kind in ("live", "beside")]
    assert ends == pytest.approx([peaks[3], stored], rel=0.005)


def test_a_map_of_another_unit_has_a_scale_of_its_own(
    driver: webdriver.Chrome, browser: Browser, tmp_path: Path
) -> None:
    export = make(tmp_path, images=1, maps=("gradcam", "finer_gradcam", "layercam"), saliency={"gamma": 0.6})
    other = Browser(driver, write_report(export, tmp_path / "report").parent)
    other.open("images/0.html#beside=stored:layercam")
    own = float(export.maps([0], "layercam", size=SIZE).max())
    live = max(float(export.contrast([0], gamma, size=SIZE).max()) for gamma in (0, 0.6))
    assert float(other.text("beside-high")) == pytest.approx(own, rel=0.005)
    assert float(other.text("live-high")) == pytest.approx(live, rel=0.005)
    assert "layercam has another unit" in other.text("scale-hint")


def test_difference_to_the_baseline(browser: Browser, export: Export) -> None:
    browser.open("images/0.html#beside=difference&gamma=2")
    maps = [export.contrast([0], gamma, size=SIZE)[0] for gamma in (2.0, 0.0)]
    found = browser.shown(1)
    np.testing.assert_allclose(found, maps[0] - maps[1], atol=1e-5)
    assert found.min() < 0
    pixels, end = browser.pixels("beside-map").astype(int), np.abs(found).max()
    assert (pixels[np.abs(found) < 1e-6 * end][:, 3] == 0).all()
    for strong, channel in ((found > 0.7 * found.max(), 0), (found < 0.7 * found.min(), 2)):
        # Orange is more, purple is less.
        assert strong.any()
        assert (pixels[strong][:, channel] > pixels[strong][:, 2 - channel]).all()
    assert browser.text("beside-low").startswith("−")
    assert browser.text("beside-low").endswith("less")
    browser.set("gamma", 0)
    assert browser.text("beside-note") == "no difference"


def test_a_second_comparison_has_its_own_settings_and_address(browser: Browser, export: Export) -> None:
    browser.open("images/0.html")
    assert not browser.driver.find_element(By.ID, "gamma-2").is_displayed()
    browser.set("beside", "second")
    browser.set("gamma-2", 1.5)
    browser.set("second-0", False)
    for place in (1, 2):
        browser.set(f"reference-{place}", False)
    np.testing.assert_allclose(browser.map(), export.contrast([0], 0.6, references=[0], size=SIZE)[0], atol=1e-5)
    expected = export.contrast([0], 1.5, references=[1, 2], size=SIZE)[0]
    np.testing.assert_allclose(browser.shown(1), expected, atol=1e-5)
    browser.driver.execute_script("window.stop(); location.reload()")
    np.testing.assert_allclose(browser.shown(1), expected, atol=1e-5)
    assert browser.text("beside-question") == "What makes it cat rather than fox or <b>hen</b>?"


def test_values_under_the_pointer_and_by_keys(browser: Browser) -> None:
    browser.open("images/0.html")
    read = "return [...document.querySelectorAll('.cross:not([hidden]) span:not([hidden])')].map(e => e.textContent)"
    canvas = browser.driver.find_element(By.ID, "live-map")
    ActionChains(browser.driver).move_to_element(canvas).perform()
    box = canvas.rect
    middle = [SIZE[0] // 2, SIZE[1] // 2]
    texts = browser.driver.execute_script(read)
    assert box["width"] > 100
    assert len(texts) == 2
    for text, map in zip(texts, (browser.shown(1), browser.map()), strict=True):
        near = map[middle[0] - 1 : middle[0] + 1, middle[1] - 1 : middle[1] + 1]
        assert np.abs(near - float(text)).min() <= 0.005 * abs(float(text))
    ActionChains(browser.driver).move_to_element(browser.driver.find_element(By.TAG_NAME, "h1")).perform()
    assert browser.driver.execute_script(read) == []
    canvas.send_keys(Keys.ARROW_RIGHT)
    before = browser.driver.execute_script("return document.getElementById('place').textContent")
    assert "Finer-CAM, γ 0.60" in before
    canvas.send_keys(Keys.ARROW_DOWN)
    assert browser.driver.execute_script("return document.getElementById('place').textContent") != before
    assert browser.driver.current_url.split("#")[0].endswith("images/0.html")


@pytest.mark.parametrize("state", ["", "beside=second&region=true", "mode=contours&beside=difference"])
def test_figures_are_saved_without_a_request(browser: Browser, tmp_path: Path, state: str) -> None:
    allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
    browser.open(f"images/0.html#{state}")
    if not state:
        # Names may hold what XML cannot.
        browser.driver.execute_script("window.finerRay.data.target += String.fromCharCode(1, 0xd800)")
        browser.set("gamma", 0.6)
    for kind in ("svg", "png"):
        browser.driver.find_element(By.CSS_SELECTOR, f"[data-figure={kind}]").click()
    paths = [tmp_path / f"image-0-gamma-0.6.{kind}" for kind in ("svg", "png")]
    WebDriverWait(browser.driver, 10).until(lambda _: all(path.is_file() for path in paths))
    root = ElementTree.fromstring(paths[0].read_text(encoding="utf-8"))  # noqa: S314 - the page wrote it
    texts = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "What makes it cat" in texts
    assert "rather than dog, fox or <b>hen</b>?" in texts
    assert "γ 0.60 against dog, fox, <b>hen</b>" in texts
    photo = base64.b64encode((browser.folder / "images/0.jpg").read_bytes()).decode()
    assert sum(photo in str(element.attrib) for element in root) == 3
    with Image.open(paths[1]) as picture:
        assert picture.size == (2 * int(root.attrib["width"]), 2 * int(root.attrib["height"]))
        # The photo and the maps are there: no picture is white.
        top = np.asarray(picture.convert("RGB"))[picture.height // 3, :, :].reshape(-1, 3)
    assert (top.min(1) < 230).mean() > 0.8


def test_printed_pages_say_what_is_seen(browser: Browser) -> None:
    browser.open("images/0.html#gamma=1.2&mode=hot")
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert "γ 1.20 against dog, fox, <b>hen</b>" in browser.text("state")
    assert "only where it is hot" in browser.text("state")
    assert not browser.driver.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
    ink = "return getComputedStyle(document.getElementById('question')).color"
    assert luminance(browser.driver.execute_script(ink)) < 0.05
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert not browser.driver.find_element(By.ID, "state").is_displayed()


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
        for page in ("index.html", "images.html", "classes/0.html", "images/0.html", "images/0.html#beside=second"):
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
    for page in ("index.html", "images.html", "classes/0.html", "images/0.html", "images/0.html#beside=second"):
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
    browser.driver.find_element(By.CSS_SELECTOR, ".search input").send_keys("dog")
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
    other.set("beside", f"stored:{name}")
    above, below = coloured(export.maps([1], name, size=SIZE)[0], "inferno")
    pixels = other.pixels("beside-map")[..., :3]
    assert ((pixels == above) | (pixels == below)).all()


def luminance(text: str) -> float:
    """Relative luminance (WCAG 2) of a colour like rgb(1, 2, 3)."""
    values = np.array([int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
