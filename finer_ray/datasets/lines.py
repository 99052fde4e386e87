"""Lines: annotation files in text form, as columns, names or rows; faulty lines become findings."""

import csv
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.config.messages import brief
from finer_ray.datasets.listing import Findings
from finer_ray.datasets.tree import Tree
from finer_ray.errors import InputError

Columns = dict[str, NDArray[Any]]


def numbers(tree: Tree, name: str, types: Mapping[str, type[int | float]], findings: Findings) -> Columns:
    """Columns of a file of numbers with blanks between them; lines that cannot be read are left out, and are findings.

    Of a line with surplus fields the first ones are used. A file of four million lines takes some seconds.

    Args:
        tree: the data set's folder.
        name: path in the tree.
        types: int or float of each of the file's columns, by the names that they get here.
        findings: get what is wrong.

    Returns:
        By name (lines,) int64 or float64, all finite.

    Raises:
        InputError: there is no such file.
    """
    width, kinds = len(types), list(types.values())
    cells = array("d")
    faults = []
    for number, line in _lines(tree.text(name)):
        fields = line.split()
        try:
            row = array("d", [kind(text) for kind, text in zip(kinds, fields, strict=False)])
        except (ValueError, OverflowError):
            row = array("d")
        if len(row) == width:
            cells.extend(row)
        if len(fields) != width or len(row) != width:
            faults.append((number, _fault(len(fields), width, len(row) == width)))
    findings.add_lines(name, faults)
    table = np.frombuffer(cells).reshape(-1, width or 1)
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        findings.add("malformed", name, f"{(~finite).sum()} lines with a number that is not finite; left out")
    return {key: table[finite, place].astype(kind) for place, (key, kind) in enumerate(types.items())}


def named(tree: Tree, name: str, findings: Findings) -> dict[int, str]:
    """A file of lines `ID NAME`, as names by id in order; the name may hold blanks. Raises InputError."""
    found: dict[int, str] = {}
    faults = []
    for number, line in _lines(tree.text(name)):
        head, _, tail = line.strip().partition(" ")
        if not head.isascii() or not head.isdigit() or len(head) > 15 or not tail.strip():
            faults.append((number, f"expected a number and a name, got {line[:60]!r}"))
        elif int(head) in found:
            faults.append((number, f"the number {head} for the second time"))
        else:
            found[int(head)] = tail.strip()
    findings.add_lines(name, faults)
    return found


def rows(tree: Tree, name: str, findings: Findings) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV file with a heading, by column, with their line numbers. Raises InputError."""
    faults = []
    reader = csv.DictReader(line + "\n" for line in tree.text(name).split("\n"))
    try:
        for row in reader:
            if row.pop(None, None) is not None or None in row.values():
                faults.append((reader.line_num, f"expected {len(reader.fieldnames or ())} fields"))
            else:
                yield reader.line_num, {key.strip(): value.strip() for key, value in row.items()}
    except csv.Error as error:
        raise InputError(f"--source: {name}, line {reader.line_num} cannot be read: {brief(error)}") from None
    findings.add_lines(name, faults)


def names_only(tree: Tree, name: str) -> list[str]:
    """The lines of a file that holds a name per line. Raises InputError."""
    return [line.strip() for _, line in _lines(tree.text(name)) if line.strip()]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1; only line feeds part them."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r")


def _fault(found: int, expected: int, usable: bool) -> str:
    if found > expected and usable:
        return f"{found} fields instead of {expected}; the first {expected} are used"
    return f"{found} fields, expected {expected} numbers; left out"
