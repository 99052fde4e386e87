"""The documentation as a site: it builds without a warning, has the API, and asks no other host for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, pages, prose

# What a browser fetches by itself.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*canonical))\b[^>]*\b(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)"
)
ITEM = re.compile(r"\s*(?:[-*]|\d+\.) ")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there(site: Path) -> None:
    for page in pages():
        if page.startswith("docs/"):
            assert (site / Path(page).with_suffix(".html").name).is_file(), page
    for name in ("start", "contributing", "security", "changelog", "deploy"):
        assert (site / f"{name}.html").is_file()


@pytest.mark.slow
def test_the_api_is_there(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("reading.open_export", "reading.Export.maps", "reading.Export.contrast", "query.connect"):
        assert f'id="finer_ray.store.{name}"' in text
    # Examples are code, and no quotations of quotations.
    assert "&gt;&gt;&gt; " in text
    assert "<blockquote>" not in text


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert FETCHED.findall(page.read_text(encoding="utf-8")) == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\(\"?(?:https?:)?//[^)]*", style.read_text(encoding="utf-8")) == [], style


def test_lists_are_lists() -> None:
    """The site's Markdown takes a list for text where there is no empty line before it."""
    for page in pages():
        paragraphs = [part.split("\n") for part in re.split(r"\n\s*\n", prose(page))]
        run_on = [lines for lines in paragraphs if not ITEM.match(lines[0]) and not lines[0].startswith("#")]
        assert [lines[0] for lines in run_on if any(ITEM.match(line) for line in lines)] == [], page
