"""A report in one file, for e-mail: every page of a report's folder in one HTML file, which opens from disk."""

import base64
import hashlib
import os
import re
import secrets
import tempfile
import zlib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from finer_ray.errors import ExportError
from finer_ray.report.site.folder import SIGN
from finer_ray.report.site.site_writer import write_report
from finer_ray.store.reading import Export

# What mail takes is less; browsers open this much within seconds.
MOST_BYTES = 200_000_000
# By its first line a file is known as ours.
FIRST_LINE = b"<!doctype html><!-- finer_ray: a report in one file -->\n"
SOURCE = Path(__file__).parent / "single"
STYLE = "html,body,iframe{margin:0;width:100%;height:100%;border:0;display:block}:root{color-scheme:light dark}"
IMAGES = (".jpg", ".png")


def write_single_file(export: Export, file: Path, **sample: Any) -> Path:
    """Write the report of an export as one HTML file. A report in one file that stands there is replaced.

    Args:
        export: any.
        file: to write to, with the ending .html.
        sample: what else `write_report` takes, by name.

    Returns:
        The file.

    Raises:
        ExportError: something else stands there, or the file would be larger than 200 MB.
    """
    _check_place(file)
    with tempfile.TemporaryDirectory(prefix="finer_ray-report-") as folder:
        report = write_report(export, Path(folder) / "report", **sample).parent
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
        try:
            with draft.open("wb") as target:
                target.writelines(bundled(report))
            _check_place(file)
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)
    return file


def bundled(report: Path, most: int = MOST_BYTES) -> Iterator[bytes]:
    """The file's content, piece by piece.

    Args:
        report: the folder of a report.
        most: bytes that are allowed.

    Raises:
        ExportError: it would be larger.
    """
    paths = sorted(path for path in report.rglob("*") if path.is_file() and path.name != SIGN)
    total = sum(len(_block(report, path)) for path in paths)
    if total > most:
        pages = len(list(report.glob("images/*.html")))
        fewer = int(0.9 * pages * most / total)
        raise ExportError(
            f"the report of {pages} images would be one file of {total / 1e6:.0f} MB, and browsers open up to "
            f"{most / 1e6:.0f} MB: show about {fewer}, with smaller --images and --classes, or "
            "leave out --single-file and send the folder"
        )
    yield FIRST_LINE
    yield _head(report, paths).encode()
    for path in paths:
        yield _block(report, path)
    yield f'<script id="page" type="text/plain">{_script("page")}</script>\n'.encode()
    yield f"<script>{_script('shell')}</script>\n</body>\n</html>\n".encode()


def _check_place(file: Path) -> None:
    """Raises ExportError where something stands that may not be replaced."""
    if file.suffix != ".html":
        raise ExportError(f"{file}: a report in one file is named with the ending .html, such as --to report.html")
    if file.is_dir():
        raise ExportError(f"{file} is a folder: name a file with --to")
    if file.exists():
        with file.open("rb") as found:
            if found.read(len(FIRST_LINE)) != FIRST_LINE:
                raise ExportError(f"{file} is no report in one file, and is not replaced: name another with --to")


def _head(report: Path, paths: list[Path]) -> str:
    scripts = [_content(path).decode() for path in paths if path.suffix == ".js"]
    styles = [_content(path).decode() for path in paths if path.suffix == ".css"]
    allowed = {
        "script-src": [_digest(text) for text in (*scripts, _script("shell"), _script("page"))],
        "style-src": [_digest(text) for text in (*styles, STYLE)],
    }
    policy = [
        "default-src 'none'", "img-src blob: data:", "frame-src blob:", "base-uri 'self' file:", "form-action 'none'",
        *(f"{name} {' '.join(digests)}" for name, digests in allowed.items()),
    ]  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", (report / "index.html").read_text(encoding="utf-8"), re.DOTALL)
    return f"""<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape("; ".join(policy))}">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>{title[1] if title else "finer_ray"}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<p id="opening">Opening the report …</p>
<noscript><p>The pages of this report are held in this file, from which a script shows them; scripts are switched off
in this browser. The report as a folder can be read without.</p></noscript>
"""


def _block(report: Path, path: Path) -> bytes:
    """A file of the report as an element that no browser runs; all but images are compressed."""
    name, content = path.relative_to(report).as_posix(), _content(path)
    packed = path.suffix not in IMAGES
    held = base64.b64encode(zlib.compress(content, 9) if packed else content)
    kind = b' data-packed="true"' if packed else b""
    return b'<script type="text/plain" id="held:%s"%s>%s</script>\n' % (name.encode(), kind, held)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return _inside(content.decode()).encode() if path.suffix == ".js" else content


def _script(name: str) -> str:
    return _inside((SOURCE / f"{name}.js").read_text(encoding="utf-8"))


def _inside(script: str) -> str:
    """A script that may stand inside of a page: in its texts nothing ends the element, or begins a comment."""
    return re.sub(r"<(?=/script|!--)", r"<\\", script, flags=re.IGNORECASE)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
