"""What mkdocs asks while it builds the site: pages that lie outside of docs/, and links to them."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages of the repository, and what they are called on the site.
OUTSIDE = {
    "README.md": "start.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "deploy.md",
    "birds/README.md": "drawn_birds.md",
}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside, and other files that pages link to."""
    for source, name in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=_moved(text, posixpath.dirname(source))))
        for link in LINK.findall(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
            if not path.startswith("docs/") and path not in OUTSIDE and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of docs/ to where the site has their pages."""
    return markdown if page.file.generated_by else _moved(markdown, "docs")


def _moved(text: str, folder: str) -> str:
    """A page with its links from a folder of the repository turned into links from the site's root."""
    return LINK.sub(lambda link: f"]({_place(posixpath.join(folder, link[1]))}", text)


def _place(path: str) -> str:
    path = posixpath.normpath(path)
    return OUTSIDE.get(path, path.removeprefix("docs/"))
