"""Sheets beside image files: a line for each file, with its annotations, as Hugging Face's image folders have them.

    metadata.csv       file_name,species,sex
    metadata.jsonl     {"file_name": "a/1.jpg", "species": "owl", "bbox": [1, 2, 30, 40]}

A name is looked up among the images that were found below the sheet's folder. It is never opened.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from finer_ray.config.messages import brief, clipped, printable
from finer_ray.shards.annotation import descend, parse_json
from finer_ray.shards.fields import Source, alternatives

SHEETS = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"
# Whoever has more lines is better served by shards.
MAX_SHEET_BYTES = 256 * 2**20
DELIMITERS = ",;\t"
MAX_NAMED, MAX_NAME_LENGTH = 3, 100
INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)
# Longer digits are names, which a float would not keep.
NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})?(\.\d*)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
BOOLEANS = {"true": True, "false": False}


@dataclass
class Sheet:
    """The lines of one file.

    Attributes:
        name: of the file, for messages.
        columns: that it has, without that of the files' names.
        lines: values by column, by the files' names relative to the sheet's folder; texts of a CSV, never empty.
        problems: what is wrong with the sheet; lines that can be read are there nevertheless.
    """

    name: str
    columns: list[str] = field(default_factory=list)
    lines: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def value(self, name: str, source: Source) -> Any:
        """What a file has in a column, or where a path leads to in it; None where it has nothing. Raises FieldError."""
        value = self.lines.get(name, {}).get(source.place)
        if source.path and isinstance(value, str):
            value = parse_json(source.place, value)
        return descend(source.place, value, source.path)

    def typed(self, name: str, source: Source) -> Any:
        """The same; of a CSV a number or a boolean where all that its column holds are such."""
        value = self.value(name, source)
        return value if source.path or not isinstance(value, str) else self._types[source.place](value)

    @cached_property
    def _types(self) -> Mapping[str, Callable[[str], Any]]:
        if not self.name.lower().endswith(".csv"):
            return dict.fromkeys(self.columns, str)
        return {
            column: _type([line[column] for line in self.lines.values() if column in line]) for column in self.columns
        }


def load_sheet(fs: Any, path: str, name: str) -> Sheet:
    """The sheet at a path. Raises OSError where it cannot be read."""
    return read_sheet(name, fs.cat_file(path, end=MAX_SHEET_BYTES + 1))


def read_sheet(name: str, content: bytes) -> Sheet:
    """A sheet of a file: CSV (with commas, semicolons or tabs), JSON lines, or a text of one file's name a line.

    >>> read_sheet("birds.csv", b"file_name,sex\\r\\nsmall/1.jpg,f\\r\\n").lines
    {'small/1.jpg': {'sex': 'f'}}

    Args:
        name: of the file; what it ends in says which.
        content: of the file, in UTF-8, with a byte order mark or without. Other bytes become escapes.
    """
    sheet = Sheet(name)
    if len(content) > MAX_SHEET_BYTES:
        sheet.problems.append(f"{name}: more than the allowed {MAX_SHEET_BYTES} bytes")
        return sheet
    text = content.decode("utf-8", "backslashreplace").removeprefix("\ufeff")
    kinds = {".csv": _csv_lines, ".jsonl": _json_lines}
    lines = kinds.get(posixpath.splitext(name)[1].lower(), _names)
    twice: list[str] = []
    try:
        for line in lines(text, sheet):
            file = line.pop(FILE_NAME, None)
            if not isinstance(file, str) or not file.strip():
                continue
            file = normal_name(file)
            if sheet.lines.setdefault(file, line) is not line and sheet.lines[file] != line:
                twice.append(file)
    except csv.Error as error:
        sheet.problems.append(f"{name}, after {len(sheet.lines)} files: {brief(error)}")
    if not sheet.lines and not sheet.problems:
        sheet.problems.append(f"{name}: no line with a {FILE_NAME}; columns: {_some(sheet.columns)}")
    if twice:
        sheet.problems.append(
            f"{name}: {len(twice)} files have other lines too, of which the first counts: {_some(twice)}"
        )
    return sheet


def normal_name(name: str) -> str:
    """A file's name as it is looked up: without `./`, and with slashes where Windows writes none."""
    return printable(posixpath.normpath(name.strip() if "/" in name else name.strip().replace("\\", "/")))


def _csv_lines(text: str, sheet: Sheet) -> Iterator[dict[str, Any]]:
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = next((each for each in DELIMITERS if FILE_NAME in _header(head, each)), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip() for name in next(rows, [])]
    sheet.columns += [name for name in dict.fromkeys(header) if name not in ("", FILE_NAME)]
    for row in rows:
        yield {name: value for name, value in zip(header, row, strict=False) if value}


def _header(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _json_lines(text: str, sheet: Sheet) -> Iterator[dict[str, Any]]:
    columns: dict[str, None] = {}
    wrong = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            wrong.append(str(number))
            continue
        columns.update(dict.fromkeys(found))
        yield found
    sheet.columns += [name for name in columns if name != FILE_NAME]
    if wrong:
        sheet.problems.append(f"{sheet.name}: {len(wrong)} lines are no JSON object: {_some(wrong)}")


def _names(text: str, sheet: Sheet) -> Iterator[dict[str, Any]]:
    yield from ({FILE_NAME: line} for line in text.splitlines() if line.strip())


class Sheets:
    """The sheets of a shard; an image's line stands in the nearest one above it.

    Args:
        by_folder: by the path of their folder below the shard's root, '' for the root itself.
    """

    def __init__(self, by_folder: Mapping[str, Sheet]) -> None:
        self._by_folder = by_folder

    def value(self, key: str, field: str) -> tuple[str, Any] | None:
        """Name and value of the first alternative of a field that an image has. Raises FieldError."""
        return self._first(key, field, Sheet.value)

    def typed(self, key: str, field: str) -> tuple[str, Any] | None:
        """The same with values as numbers and booleans, see `Sheet.typed`. Raises FieldError."""
        return self._first(key, field, Sheet.typed)

    def _first(self, key: str, field: str, value: Callable[[Sheet, str, Source], Any]) -> tuple[str, Any] | None:
        sheet, name = self._line(key)
        if sheet is None:
            return None
        for alternative in alternatives(field):
            source = _source(alternative, sheet.columns)
            if source is not None and (found := value(sheet, name, source)) is not None:
                return source.name, found
        return None

    def _line(self, key: str) -> tuple[Sheet | None, str]:
        """The nearest sheet above an image, and the image's path from there."""
        folder = key.rpartition("/")[0]
        while folder and folder not in self._by_folder:
            folder = folder.rpartition("/")[0]
        return self._by_folder.get(folder), key[len(folder) :].lstrip("/")

    def missing(self, wanted: Mapping[str, tuple[str, ...]]) -> str | None:
        """Which field no sheet has a column for, and which columns there are; None where all are there.

        Args:
            wanted: columns by field, of which one must be there; a box only where there are sheets at all.
        """
        columns = list(dict.fromkeys(column for sheet in self._by_folder.values() for column in sheet.columns))
        for part, names in wanted.items():
            needed = names and (self._by_folder or part != "box")
            if needed and not any(_source(name, columns) for name in names):
                there = f"columns: {clipped(', '.join(columns))}" if columns else f"there is no {' or '.join(SHEETS)}"
                return f"{part}: no sheet of the images has a column {' or '.join(names)}; {there}"
        return None

    def problems(self, keys: list[str]) -> Iterator[str]:
        """What is wrong with the sheets as such, or beside these images."""
        for sheet in self._by_folder.values():
            yield from sheet.problems
        found = (self._line(key) for key in keys)
        used = {sheet.name for sheet, name in found if sheet is not None and name in sheet.lines}
        for sheet in self._by_folder.values():
            if keys and sheet.lines and sheet.name not in used:
                named = clipped(next(iter(sheet.lines)), MAX_NAME_LENGTH)
                yield f"{sheet.name} has lines of other files only, as of {named!r}; one of the images is {keys[0]!r}"


def _type(texts: list[str]) -> Callable[[str], Any]:
    """What makes a value of each text of a column."""
    if all(INTEGER.fullmatch(text) for text in texts):
        return int
    if all(NUMBER.fullmatch(text) and any(map(str.isdigit, text)) for text in texts):
        return float
    return _boolean if all(text.lower() in BOOLEANS for text in texts) else str


def _boolean(text: str) -> bool:
    return BOOLEANS[text.lower()]


def _some(names: Iterable[str]) -> str:
    listed = [clipped(name, MAX_NAME_LENGTH) for name in names]
    return ", ".join(listed[:MAX_NAMED]) + (", ..." if len(listed) > MAX_NAMED else "") or "none"


def _source(alternative: str, columns: Iterable[str]) -> Source | None:
    """The longest leading part of an alternative that is a column, with the rest as the path into it."""
    parts = alternative.split(".")
    for cut in range(len(parts), 0, -1):
        if (column := ".".join(parts[:cut])) in columns:
            return Source(column, tuple(parts[cut:]))
    return None
