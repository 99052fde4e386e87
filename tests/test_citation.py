"""CITATION.cff against the Citation File Format 1.2.0, and against the package."""

import re
import tomllib
from typing import Any

import yaml

from finer_ray.version import __version__
from tests.pages import ROOT

CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def named(author: dict[str, str]) -> bool:
    """A person with a name, or an entity."""
    return "family-names" in author or "name" in author


def test_it_has_what_the_format_requires() -> None:
    assert set(CITATION) >= {"cff-version", "message", "title", "authors"}
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] in {"software", "dataset"}
    for work in (CITATION, *CITATION["references"]):
        assert work["title"]
        assert work["authors"]
        assert all(map(named, work["authors"]))
    assert all("type" in reference for reference in CITATION["references"])


def test_it_is_of_this_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CITATION["version"] == __version__
    assert CITATION["license"] == project["license"]


def test_it_names_the_paper_that_the_readme_links() -> None:
    [paper] = CITATION["references"]
    assert paper["year"] == 2025
    assert paper["url"] in (ROOT / "README.md").read_text(encoding="utf-8")
    [identifier] = [found["value"] for found in paper["identifiers"]]
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", identifier)
    assert paper["url"].endswith(identifier.removeprefix("arXiv:"))
