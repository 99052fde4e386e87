"""Every link of every page, to a file or a heading, points to something that is there. The network is not asked."""

import json
import re
import unicodedata

import pytest

from tests.pages import ROOT, pages, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")


def anchor(heading: str) -> str:
    """A heading's anchor: small letters, no punctuation, a dash for each blank."""
    words = unicodedata.normalize("NFKD", re.sub(r"[`*]|\]\([^)]*\)", "", heading)).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words))


def anchors(page: str) -> set[str]:
    text = prose(page)
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    return headings | set(re.findall(r'<a id="([^"]+)">', text))


def links(text: str) -> list[str]:
    return [link for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)) if not ELSEWHERE.match(link)]


def broken(page: str, link: str) -> str | None:
    """What is wrong with a link of a page; None where nothing is."""
    name, _, fragment = link.partition("#")
    target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{page}: {link} leads nowhere"
    if fragment and fragment not in anchors(str(target.relative_to(ROOT))):
        return f"{page}: {link} is no heading; there are {sorted(anchors(str(target.relative_to(ROOT))))}"
    return None


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    assert [fault for link in links(prose(page)) if (fault := broken(page, link))] == []


def test_links_of_notebooks_lead_somewhere() -> None:
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        assert [fault for link in links(text) if (fault := broken(f"examples/{path.name}", link))] == []


def test_every_page_of_the_docs_is_linked_from_the_readme_and_the_index() -> None:
    for start in ("README.md", "docs/index.md"):
        there = {str((ROOT / start).parent / link.partition("#")[0]) for link in links(prose(start))}
        missing = {page for page in pages() if page.startswith("docs/") and str(ROOT / page) not in there}
        assert missing <= {"docs/index.md"} | ({"docs/index.md"} if start == "README.md" else set()), start


def test_a_broken_link_is_found() -> None:
    assert broken("README.md", "docs/no_such_page.md")
    assert broken("docs/method.md", "models.md#no-such-heading")
    assert broken("docs/method.md", "#no-such-heading")
    assert broken("docs/method.md", "../../outside.md")
    assert broken("docs/models.md", "operations.md#nodes-without-a-network") is None
