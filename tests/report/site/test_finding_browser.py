"""Finding images in a real Chromium: the gallery's order and filters, Back, Next and Previous, the map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from finer_ray.report.site import write_report
from finer_ray.report.site.map_data import main_map
from finer_ray.store.reading import Export
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser
from tests.report.site.exports import make
from tests.report.site.test_finding import HOSTILE, OWN, listed

pytestmark = IN_A_BROWSER
IMAGES = 24
# By its field and bound, as hand and keys would.
BOUND = """
const [bound, field, value] = arguments;
const element = [...document.querySelectorAll(`[data-bound=${bound}]`)].find((one) => one.dataset.field === field);
element.value = value;
element.dispatchEvent(new Event("input", {bubbles: true}));
"""
SHOWN = "return [...document.querySelectorAll('#cards a')].map((a) => Number(a.pathname.match(/(\\d+).html$/)[1]))"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("finding"), images=IMAGES, embedding=6, columns=OWN, references=2)


@pytest.fixture(scope="module")
def folder(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(export, tmp_path_factory.mktemp("site") / "report").parent


def shown(browser: Browser) -> list[int]:
    rows: list[int] = browser.driver.execute_script(SHOWN)
    return rows


def bound(browser: Browser, kind: str, field: str, value: str) -> None:
    browser.driver.execute_script(BOUND, kind, field, value)


def wait(browser: Browser, condition: Any) -> None:
    WebDriverWait(browser.driver, 5, poll_frequency=0.02).until(lambda _: condition())


def lines(export: Export) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = export.images.to_pylist()
    return found


def metric(export: Export, name: str) -> dict[int, float]:
    return {line["row"]: line[name] for line in export.metrics.to_pylist() if line["map"] == main_map(export)}


def test_sorts_by_anything_both_ways(browser: Browser, export: Export) -> None:
    browser.open("images.html")
    assert shown(browser) == list(range(IMAGES))
    values = metric(export, "relative_drop_05")
    best = sorted(values, key=lambda row: (-values[row], row))
    browser.set("sort", "metric.relative_drop_05")
    assert shown(browser) == best
    first = browser.driver.find_element(By.CSS_SELECTOR, "#cards .value").text
    assert first.split()[-1].startswith(f"{values[best[0]]:.2f}")
    browser.set("order", "up")
    assert shown(browser) == best[::-1]
    assert browser.text("asked").endswith("worst first")
    gaps = {line["row"]: line["logit"] - max(line["reference_logits"]) for line in lines(export)}
    browser.set("sort", "margin")
    assert shown(browser) == sorted(gaps, key=gaps.__getitem__)
    # What has no value stays last either way, and equals stay by row.
    ages = {line["row"]: line["age"] for line in lines(export)}
    known = [row for row in ages if ages[row] is not None]
    unknown = [row for row in ages if ages[row] is None]
    browser.set("sort", "own.age")
    assert shown(browser) == known + unknown
    browser.set("order", "down")
    assert shown(browser) == known[::-1] + unknown
    browser.set("sort", "key")
    assert shown(browser) == list(range(IMAGES)), "k10 stands behind k9"
    browser.set("order", "down")
    browser.set("sort", "")
    assert shown(browser) == list(range(IMAGES)), "another field is sorted its own way"


def test_filters_together(browser: Browser, export: Export) -> None:
    browser.open("images.html")
    wrong = [line for line in lines(export) if line["label"] != line["predicted"]]
    bound(browser, "is", "verdict", "wrong")
    assert shown(browser) == [line["row"] for line in wrong]
    bound(browser, "is", "label", "2")
    assert shown(browser) == [line["row"] for line in wrong if line["label"] == 2]
    bound(browser, "is", "label", "")
    bound(browser, "is", "own.sex", "female")
    bound(browser, "min", "own.age", "7")
    expected = [line["row"] for line in wrong if line["sex"] == "female" and (line["age"] or 0) >= 7]
    assert expected
    assert shown(browser) == expected
    assert browser.text("found") == f"{len(expected)} of {IMAGES}"
    browser.set("q", "no such thing")
    assert shown(browser) == []
    browser.driver.find_element(By.ID, "clear").click()
    assert len(shown(browser)) == IMAGES
    assert browser.driver.execute_script("return location.hash") == ""
    assert browser.driver.execute_script("return document.querySelector('[data-field=\"own.age\"]').value") == ""
    bound(browser, "is", f"own.{HOSTILE}", f"{HOSTILE}1")
    assert shown(browser) == [row for row in range(IMAGES) if row % 2]
    browser.driver.refresh()
    assert shown(browser) == [row for row in range(IMAGES) if row % 2], "the address has it all"
    values = metric(export, "localisation")
    browser.open("images.html#max.metric.localisation=0.5&is.predicted=1&sort=nonsense&min.margin=x&is.never=y&box=1")
    assert shown(browser) == [
        line["row"] for line in lines(export) if line["predicted"] == 1 and values[line["row"]] <= 0.5
    ]


def test_back_keeps_what_was_asked(browser: Browser) -> None:
    """Box, list and count agree, whether the browser kept the page or makes it anew."""
    browser.open("images.html")
    browser.driver.find_element(By.ID, "q").send_keys("fox")
    asked = shown(browser)
    assert 0 < len(asked) < IMAGES
    for leave in (".card-image a", ".bar a"):
        browser.driver.find_element(By.CSS_SELECTOR, leave).click()
        wait(browser, lambda: "images.html" not in browser.driver.current_url)
        browser.driver.back()
        wait(browser, lambda: browser.driver.find_elements(By.ID, "q"))
        assert browser.driver.find_element(By.ID, "q").get_attribute("value") == "fox"
        assert shown(browser) == asked
        assert browser.text("found") == f"{len(asked)} of {IMAGES}"
    browser.driver.find_element(By.ID, "q").send_keys(Keys.BACKSPACE * 3)
    assert len(shown(browser)) == IMAGES


def test_next_and_previous_follow_what_was_asked(browser: Browser, export: Export) -> None:
    browser.open("images.html#q=fox&sort=metric.localisation&order=up")
    asked = shown(browser)
    values = metric(export, "localisation")
    assert asked == sorted(asked, key=values.__getitem__)
    assert asked != sorted(asked)
    browser.driver.find_element(By.CSS_SELECTOR, "#cards a").click()
    said = "“fox”, by energy on the object, worst first"
    for place, row in enumerate(asked[:3]):
        wait(browser, lambda row=row: f"images/{row}.html" in browser.driver.current_url)
        wait(browser, lambda place=place: browser.text("turn") == f"{place + 1} of {len(asked)}: {said}")
        browser.set("gamma", 1 + place)
        browser.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_RIGHT)
    wait(browser, lambda: f"images/{asked[3]}.html" in browser.driver.current_url)
    wait(browser, lambda: browser.text("turn").startswith("4 of"))
    assert browser.driver.find_element(By.ID, "gamma").get_attribute("value") == "3", "the view's settings come along"
    browser.driver.find_element(By.ID, "reset").click()
    browser.driver.refresh()
    wait(browser, lambda: browser.text("turn").startswith("4 of"))
    browser.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_LEFT)
    wait(browser, lambda: f"images/{asked[2]}.html" in browser.driver.current_url)
    wait(browser, lambda: browser.text("turn").startswith("3 of"))
    browser.driver.find_element(By.ID, "images").click()
    wait(browser, lambda: browser.driver.find_elements(By.ID, "cards"))
    assert shown(browser) == asked


def test_first_and_last_lead_nowhere_else(browser: Browser) -> None:
    for address, position, links in (
        ("images/0.html", f"1 of {IMAGES}", [False, True]),
        (f"images/{IMAGES - 1}.html", f"{IMAGES} of {IMAGES}", [True, False]),
        ("images/3.html?of=q%3Dk3%26", "1 of 1: “k3”", [False, False]),
        ("images/4.html?of=q%3Dk3", "not among the 1: “k3”", [True, True]),
    ):
        browser.open(address)
        wait(browser, lambda position=position: browser.text("turn") == position)
        assert [browser.driver.find_element(By.ID, name).is_displayed() for name in ("before", "after")] == links
        assert browser.violations() == []


def test_more_cards_come_when_they_are_looked_for(
    browser: Browser, driver: webdriver.Chrome, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finer_ray.report.site.site_writer.CARDS", 6)
    other = Browser(driver, write_report(export, tmp_path / "report").parent)
    script = tmp_path / "report" / "assets" / "gallery.js"
    script.write_text(script.read_text().replace("SLICE = 120", "SLICE = 6"))
    other.window(1200, 300)
    other.open("images.html#sort=confidence")
    wait(other, lambda: 6 <= len(shown(other)) < IMAGES)
    driver.execute_script("document.getElementById('further').click()")
    driver.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait(other, lambda: len(shown(other)) > 12)
    driver.execute_script("document.getElementById('further').click()")
    count = len(shown(other))
    driver.find_element(By.CSS_SELECTOR, "#cards li:nth-child(2) a").click()
    wait(other, lambda: "images.html" not in driver.current_url)
    driver.back()
    wait(other, lambda: len(shown(other)) >= count)
    # Cards of the page and those that the script makes have the same parts.
    parts = driver.execute_script(
        "return [...document.querySelectorAll('#cards li')].map((li) => [...li.querySelectorAll('*')].map((element) =>"
        " element.tagName + element.className + element.getAttributeNames().sort()).join())"
    )
    assert {row >= 6 for row in shown(other)} == {True, False}
    assert len({part.replace(" good", "").replace(" bad", "") for part in parts}) == 1


def drag(browser: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From and to shares of the canvas."""
    canvas = browser.driver.find_element(By.ID, "plane")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = canvas.size["width"], canvas.size["height"]
    at = [(round((x - 0.5) * (width - 4)), round((y - 0.5) * (height - 4))) for x, y in (start, end)]
    moves = ActionChains(browser.driver, duration=50).move_to_element_with_offset(canvas, *at[0]).click_and_hold()
    moves.move_to_element_with_offset(canvas, *at[1]).release().perform()


def test_the_map_selects(browser: Browser, folder: Path) -> None:
    places = np.array(listed(folder)["map"], float)
    browser.open("images.html")
    drag(browser, (0, 0), (0.5, 1))
    chosen = shown(browser)
    middle = places[:, 0].max() / 2 + places[:, 0].min() / 2
    assert set(chosen) == set(np.flatnonzero(places[:, 0] < middle))
    assert 0 < len(chosen) < IMAGES
    assert browser.text("asked") == "selected on the map"
    browser.driver.refresh()
    assert shown(browser) == chosen
    bound(browser, "is", "verdict", "right")
    assert set(shown(browser)) < set(chosen)
    bound(browser, "is", "verdict", "")
    drag(browser, (0.99, 0.9), (0.97, 0.86))
    assert shown(browser) == []
    canvas = browser.driver.find_element(By.ID, "plane")
    # A click beside all points takes the selection back.
    ActionChains(browser.driver).move_to_element_with_offset(canvas, canvas.size["width"] // 2 - 6, 0).click().perform()
    assert len(shown(browser)) == IMAGES
    # By keys.
    browser.driver.find_element(By.CSS_SELECTOR, "#edges summary").click()
    right = browser.driver.find_element(By.CSS_SELECTOR, "[data-edge=right]")
    right.send_keys(Keys.PAGE_DOWN * 4)
    edge = float(right.get_attribute("value") or "nan")
    assert edge < 1000
    assert shown(browser) == np.flatnonzero(places[:, 0] <= edge).tolist()
    assert "24 images" in (browser.driver.find_element(By.ID, "plane").get_attribute("aria-label") or "")


def test_a_point_says_what_it_is_and_leads_there(browser: Browser, folder: Path) -> None:
    found = listed(folder)
    places = np.array(found["map"], float)
    browser.open("images.html#sort=confidence")
    wait(browser, lambda: browser.driver.find_element(By.ID, "plane").get_attribute("aria-label"))
    row = int(places[:, 0].argmax())
    size = browser.driver.find_element(By.ID, "plane").size
    low, high = places.min(0), places.max(0)
    scale = min((size[side] - 2 - 52) / (high - low)[axis] for axis, side in enumerate(("width", "height")))
    offset = (places[row] - (low + high) / 2) * scale
    canvas = browser.driver.find_element(By.ID, "plane")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    over = ActionChains(browser.driver).move_to_element_with_offset(canvas, *offset.round().astype(int).tolist())
    over.perform()
    wait(browser, lambda: browser.driver.find_element(By.ID, "tip").is_displayed())
    assert browser.text("tip").endswith(found["keys"][row])
    assert browser.driver.find_element(By.CSS_SELECTOR, "#tip img").get_attribute("src").endswith(f"images/{row}.jpg")
    over.click().perform()
    wait(browser, lambda: f"images/{row}.html?of=sort%3Dconfidence" in browser.driver.current_url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colouring_is_open_to_all(browser: Browser, scheme: str) -> None:
    browser.scheme(scheme)
    browser.open("images.html")
    browser.driver.execute_script("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    options = browser.driver.execute_script(
        "return [...document.getElementById('tint').options].map((one) => one.value)"
    )
    assert {"label", "verdict", "confidence", "metric.localisation", "own.age"} <= set(options)
    pictures = set()
    for option in options:
        browser.set("tint", option)
        browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        pictures.add(browser.driver.find_element(By.ID, "tints").get_attribute("innerHTML"))
    # The classes of labels and of predictions are the same here.
    assert len(pictures) == len(options) - 1
    assert browser.violations() == []
    browser.window(360, 740, phone=True)
    assert browser.driver.execute_script(WIDER) <= 0
    assert browser.violations() == []


@pytest.mark.parametrize(
    "wanted",
    [
        {"labels": False, "embedding": 3},
        {"metrics": False, "regions": False},
        {"images": 1, "embedding": 3},
        {"images": 0, "failures": ["gone"]},
        {"references": 0, "maps": ("gradcam",), "basis": False, "embedding": 1},
        {"classes": (HOSTILE, "a", "b", "</title>"), "key": f"{HOSTILE}{{}}".format, "embedding": 3},
    ],
)
def test_exports_that_lack_something_are_found_in(
    browser: Browser, driver: webdriver.Chrome, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    export = make(tmp_path, **wanted)
    (tmp_path / "in" / "a.tar").unlink()
    other = Browser(driver, write_report(export, tmp_path / "report").parent)
    other.open("images.html")
    assert other.violations() == []
    if not export.images.num_rows:
        return
    assert shown(other) == export.images["row"].to_pylist()
    assert "photo not at hand" in driver.find_element(By.ID, "cards").text
    other.set("sort", "confidence")
    other.set("q", "k0" if "key" not in wanted else HOSTILE.strip())
    assert len(shown(other)) == (1 if "key" not in wanted else export.images.num_rows)
    other.open("images/0.html?of=sort%3Dconfidence")
    wait(other, lambda: other.text("turn").startswith("1 of"))


def test_links_to_what_goes_wrong_show_just_that(browser: Browser, export: Export) -> None:
    """Of all classes from the overview, of one from its line there and from its page; by row, as they stand there."""
    wrong = [line for line in lines(export) if line["label"] != line["predicted"]]
    for page, link, label in [
        ("index.html", ".ways a[href*=wrong]", None),
        ("index.html", "#class-table a[href$='label=1']", 1),
        ("classes/1.html", "#wrong ~ p a[href*=wrong]", 1),
    ]:
        browser.open(page)
        browser.driver.execute_script("document.querySelector(arguments[0]).click()", link)
        wait(browser, lambda: "images.html" in browser.driver.current_url and shown(browser))
        expected = [line["row"] for line in wrong if label is None or line["label"] == label]
        assert 0 < len(expected) < IMAGES
        assert shown(browser) == expected
