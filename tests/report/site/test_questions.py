"""A biologist's three questions, each answered within two clicks from the overview."""

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from finer_ray.report.site import write_report
from finer_ray.store.reading import Export
from tests.report.site.browser import IN_A_BROWSER, Browser
from tests.report.site.exports import make

pytestmark = IN_A_BROWSER
CLICKS = 2


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(tmp_path_factory.mktemp("questions"), images=24, patches=6, parts=("bill", "wing"))


@pytest.fixture(scope="module")
def folder(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(export, tmp_path_factory.mktemp("site") / "report").parent


class Walk:
    """Clicks, counted, from the overview on."""

    def __init__(self, browser: Browser) -> None:
        self._driver, self.clicks = browser.driver, 0
        browser.open("index.html")

    def click(self, element: WebElement) -> None:
        self.clicks += 1
        assert self.clicks <= CLICKS
        assert element.is_displayed()
        element.click()

    def one(self, selector: str) -> WebElement:
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return [found for found in self._driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]


@pytest.fixture
def walk(browser: Browser) -> Walk:
    browser.window(1200, 800)
    return Walk(browser)


def test_what_tells_a_from_b(walk: Walk) -> None:
    """Of the pairs with pictures by one click, and of any other with a page by the list of all."""
    # Cards begin on the first screen, all of their pictures within the second.
    assert walk.one(".duo").rect["y"] < 800
    walk.click(walk.one('nav a[href="pairs.html"]'))
    card = walk.all(".duo a")[-1]
    names = [card.find_element(By.CSS_SELECTOR, f".name .{side}").text for side in ("of-a", "of-b")]
    walk.click(card)
    assert walk.one("h1").text == f"What tells {names[0]} from {names[1]}?"
    assert "of the evidence" in walk.one(".traits").text
    assert walk.all(".traits .crops img")


def test_which_images_of_a_class_go_wrong_and_why(walk: Walk, export: Export) -> None:
    """By the class in the table of classes: what its images are taken for, the images, and what measures differ."""
    lines = export.images.to_pylist()
    wrong = [line for line in lines if line["label"] == 1 and line["predicted"] != 1]
    assert wrong
    walk.click(walk.one('#class-table a[href="classes/1.html"]'))
    section = walk.one("main section").text
    assert "What goes wrong" in section
    assert f"{len(wrong)} of {sum(line['label'] == 1 for line in lines)} labelled images" in section
    for name in {export.manifest.classes[line["predicted"]] for line in wrong}:
        assert name in section
    assert walk.all("main section .card-image")
    walk.click(walk.all("main section .card-image a")[0])
    assert "rather than" in walk.one("#question").text


def test_show_me_image_x(walk: Walk, export: Export) -> None:
    """By the box of the first screen; the button is one click."""
    box = walk.one("#find-image")
    assert box.rect["y"] < 800
    box.send_keys("k17")
    walk.click(walk.one(".find button"))
    [card] = walk.all("#cards .card-image a")
    walk.click(card)
    assert "k17" in walk.one(".crumbs").text
    assert walk.one(".turn").get_attribute("data-row") == str(export.images["key"].to_pylist().index("k17"))
