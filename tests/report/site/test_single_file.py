"""The report in one file: what it holds, what it replaces, and what it does in a real Chromium, opened from disk."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.errors import ExportError
from finer_ray.report.site import write_report, write_single_file
from finer_ray.report.site.single_file import bundled
from finer_ray.store.reading import Export
from tests.report.site.browser import IN_A_BROWSER, WIDER, Browser
from tests.report.site.exports import SIZE, make

HOSTILE = "</script><script>document.title = 'mine'</script><!--<script>"


def test_the_command_writes_one_file_and_replaces_its_own(tmp_path: Path) -> None:
    make(tmp_path)
    for _ in range(2):
        done = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--images", "2", "--single-file"])
        assert done.exit_code == 0, done.output
        assert done.output.strip() == str(tmp_path / "out" / "report.html")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    text = (tmp_path / "out" / "report.html").read_text()
    assert str(tmp_path) not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    export = make(tmp_path, images=1)
    (tmp_path / "thesis.html").write_text("<!doctype html>mine")
    (tmp_path / "folder.html").mkdir()
    for name, said in (("thesis.html", "no report in one file"), ("folder.html", "is a folder"), ("a.tex", "ending")):
        with pytest.raises(ExportError, match=said):
            write_single_file(export, tmp_path / name)
    assert (tmp_path / "thesis.html").read_text() == "<!doctype html>mine"


def test_the_same_report_is_the_same_file(tmp_path: Path) -> None:
    export = make(tmp_path)
    one, two = (write_single_file(export, tmp_path / f"{name}.html").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_file_that_is_too_large_is_refused_with_figures(tmp_path: Path) -> None:
    report = write_report(make(tmp_path), tmp_path / "report").parent
    size = sum(map(len, bundled(report)))
    with pytest.raises(ExportError, match=r"6 images would be one file of 0 MB.* about 4, with smaller --images"):
        list(bundled(report, most=int(size * 0.75)))


def wait(driver: webdriver.Chrome, ready: Callable[[webdriver.Chrome], Any]) -> Any:
    return WebDriverWait(driver, 20, ignored_exceptions=[Exception]).until(ready)


class Shell(Browser):
    """Chromium on one file; what is asked is asked of the page that it shows."""

    def show(self, page: str, title: str) -> None:
        self.driver.switch_to.default_content()
        self.driver.get("about:blank")
        self.driver.get(f"{(self.folder / 'one.html').as_uri()}#{page}")
        self.shown(title)

    def shown(self, title: str) -> None:
        """Wait for a page, by the start of its title, and go into its frame."""

        def there(driver: webdriver.Chrome) -> bool:
            driver.switch_to.default_content()
            if not driver.title.startswith(title):
                return False
            driver.switch_to.frame(0)
            done: bool = driver.execute_script(
                "return document.readyState === 'complete' && document.title.startsWith(arguments[0])", title
            )
            return done

        wait(self.driver, there)

    def address(self) -> str:
        """What the window's address says after its first `#`, whatever frame one is in."""
        return self.driver.current_url.split("#", 1)[1]

    def click(self, css: str) -> None:
        element = self.driver.find_element(By.CSS_SELECTOR, css)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    classes = ("cat", "dog", "fox", HOSTILE)
    return make(tmp_path_factory.mktemp("export"), images=6, classes=classes, saliency={"gamma": 0.6})


@pytest.fixture(scope="module")
def folder(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_file(export, tmp_path_factory.mktemp("site") / "one.html", title="Overview").parent


@pytest.fixture
def shell(driver: webdriver.Chrome, folder: Path) -> Iterator[Shell]:
    driver.get_log("browser"), driver.get_log("performance")
    found = Shell(driver, folder)
    found.window(1200, 900)
    found.scheme("light")
    yield found
    driver.switch_to.default_content()
    assert [said for said in found.complaints() if not str(said).startswith("blob:null/")] == []


def browser_test(test: Any) -> Any:
    for mark in IN_A_BROWSER:
        test = mark(test)
    return test


@browser_test
def test_from_the_overview_to_a_live_map_and_back(shell: Shell, export: Export) -> None:
    shell.show("", "Overview")
    shell.click("a[href='images/0.html']")
    shell.shown("cat, k0")
    assert shell.address() == "images/0.html"
    shell.set("gamma", 2.0)
    np.testing.assert_allclose(shell.map(), export.contrast([0], gamma=2.0, size=SIZE)[0], atol=1e-5)
    wait(shell.driver, lambda _: shell.address() == "images/0.html#gamma=2")
    assert wait(shell.driver, lambda driver: driver.execute_script("return document.images[0].naturalWidth")) == SIZE[1]
    shell.click("#after")
    shell.shown("dog, k1")
    np.testing.assert_allclose(shell.map(), export.contrast([1], gamma=2.0, size=SIZE)[0], atol=1e-5)
    shell.driver.back()
    shell.shown("cat, k0")
    np.testing.assert_allclose(shell.map(), export.contrast([0], gamma=2.0, size=SIZE)[0], atol=1e-5)
    shell.driver.back()
    shell.shown("Overview")


@browser_test
def test_addresses_open_pages_and_places(shell: Shell, export: Export) -> None:
    shell.show("images/2.html#gamma=3&reverse=true", "fox, k2")
    expected = export.contrast([2], gamma=3.0, reverse=True, size=SIZE)[0]
    np.testing.assert_allclose(shell.map(), expected, atol=1e-5)
    shell.show("no/such.html", "Overview")
    top = "return document.getElementById('classes').getBoundingClientRect().top"
    assert shell.driver.execute_script(top) > 900
    shell.click("nav a[href$='#classes']")
    wait(shell.driver, lambda driver: abs(driver.execute_script(top)) < 900)
    assert shell.address() == "index.html#classes"


@browser_test
def test_every_page_is_whole_and_closed_to_nobody(shell: Shell) -> None:
    for page, title in (
        ("index.html", "Overview"),
        ("images.html", "Images"),
        ("classes/1.html", "dog"),
        ("images/3.html", "</script>"),
    ):
        shell.show(page, title)
        assert shell.violations() == [], page
        assert shell.driver.execute_script(WIDER) <= 0
    shell.show("images.html", "Images")
    loaded = "return [...document.images].every((image) => image.src.startsWith('blob:') && image.naturalWidth > 1)"
    wait(shell.driver, lambda driver: driver.execute_script(loaded))
    shell.click("#theme")
    dark = shell.driver.execute_script("return document.documentElement.dataset.theme")
    shell.click("a[href='images/3.html']")
    shell.shown("</script>")
    assert shell.driver.execute_script("return document.documentElement.dataset.theme") == dark == "dark"
    shell.driver.switch_to.default_content()
    shell.driver.execute_script("localStorage.clear()")


LATER = """
const [place, done] = arguments;
const made = document.createElement(place.endsWith(".js") ? "script" : "img");
made.onload = () => done(true);
made.onerror = () => done(false);
made.src = place;
document.head.append(made);
"""


@browser_test
def test_scripts_ask_for_files_and_pages_know_their_query(shell: Shell) -> None:
    shell.show("images/1.html?of=wrong#gamma=2", "dog, k1")
    assert shell.driver.execute_async_script(LATER, "../assets/maps.js")
    assert shell.driver.execute_async_script(LATER, "0-map.jpg")
    assert shell.driver.execute_script("return new URL(document.baseURI).search") == "?of=wrong"
    shell.set("gamma", 1.0)
    wait(shell.driver, lambda _: shell.address() == "images/1.html?of=wrong#gamma=1")
