"""The documentation as a site: it builds without a warning, has the API, and asks no other host for anything."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT, pages, prose

pytestmark = pytest.mark.slow
# What a browser fetches by itself.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*canonical))\b[^>]*\b(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in pages():
        if page.startswith("docs/"):
            assert (site / Path(page).with_suffix(".html").name).is_file(), page
    for name in ("start", "contributing", "security", "changelog", "deploy"):
        assert (site / f"{name}.html").is_file()


def test_the_api_is_there(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    for name in ("reading.open_export", "reading.Export.maps", "reading.Export.contrast", "query.connect"):
        assert f'id="finer_ray.store.{name}"' in text
    # Examples are code, and no quotations of quotations.
    assert "open_export(" in text
    assert "<blockquote>" not in text


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert FETCHED.findall(page.read_text(encoding="utf-8")) == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\(\"?(?:https?:)?//[^)]*", style.read_text(encoding="utf-8")) == [], style


def test_lists_are_lists(site: Path) -> None:
    """Markdown of mkdocs wants an empty line before a list; what has none runs on as text."""
    for page in pages():
        assert re.findall(r"^(?! *(?:[-*]|\d+\.) |  |\n|#|\|).+\n(?:[-*]|\d+\.) .*", prose(page), re.MULTILINE) == [], (
            page
        )
