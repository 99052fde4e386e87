"""The overview, class pages and the reading guide in a real Chromium: closed to nobody, and on the way to answers."""

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from finer_ray.report.site import write_report
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser
from tests.report.site.exports import make

pytestmark = IN_A_BROWSER
PAGES = ("index.html", "reading.html", "classes/0.html", "classes/1.html")
# What of an element lies beyond the window, to the right.
BEYOND = "return arguments[0].getBoundingClientRect().right - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make(tmp_path_factory.mktemp("report"), images=24)
    return write_report(made, tmp_path_factory.mktemp("site") / "report").parent


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_closed_to_anybody(browser: Browser, page: str, scheme: str) -> None:
    browser.scheme(scheme)
    browser.open(page)
    assert browser.violations() == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_a_phone_and_a_wide_screen(browser: Browser, page: str) -> None:
    for width in (390, 1920):
        browser.window(width, 800, phone=width < 1000)
        browser.open(page)
        assert browser.driver.execute_script(WIDER) <= 0
        # All of the bar is seen without moving it.
        for link in browser.driver.find_elements(By.CSS_SELECTOR, ".bar nav a"):
            assert link.is_displayed()
            assert browser.driver.execute_script(BEYOND, link) <= 0
        nav = browser.driver.find_element(By.CSS_SELECTOR, ".bar nav")
        assert browser.driver.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", nav) <= 0


def test_the_first_screen_answers(browser: Browser) -> None:
    browser.window(1200, 800)
    browser.open("index.html")
    for name in ("how-good", "find-image"):
        place = browser.driver.find_element(By.ID, name).rect
        assert place["y"] + place["height"] < 800
    assert "95 % interval" in browser.driver.find_element(By.CLASS_NAME, "first").text


def test_the_box_leads_to_the_images(browser: Browser) -> None:
    browser.open("index.html")
    browser.driver.find_element(By.ID, "find-image").send_keys(" fox & k1#2 ", Keys.ENTER)
    assert browser.driver.current_url.endswith("/images.html#q=fox%20%26%20k1%232")


def test_wrong_images_of_a_class_are_two_clicks_away(browser: Browser) -> None:
    """From the overview to the class, whose page begins with them; and from there to one of them."""
    browser.open("index.html")
    browser.driver.find_element(By.LINK_TEXT, "cat").click()
    card = browser.driver.find_element(By.CSS_SELECTOR, "section[aria-labelledby=wrong] .card-image a")
    assert card.rect["y"] < 800
    card.click()
    assert "labelled cat" in browser.driver.find_element(By.TAG_NAME, "h1").text


def test_the_guide_is_reached_from_every_page(browser: Browser) -> None:
    for page in ("index.html", "images.html", "classes/0.html", "images/0.html"):
        browser.open(page)
        browser.driver.find_element(By.LINK_TEXT, "How to read").click()
        assert browser.driver.find_element(By.TAG_NAME, "h1").text == "How to read a map"
        loaded = "return [...document.images].every(image => image.complete && image.naturalWidth > 0)"
        assert browser.driver.execute_script(loaded)
