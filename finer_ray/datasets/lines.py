"""Lines: annotation files in text form, as columns, names or rows; faulty lines become findings."""

import csv
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from finer_ray.config.messages import brief
from finer_ray.datasets.listing import Findings
from finer_ray.datasets.tree import Tree
from finer_ray.errors import InputError

Columns = dict[str, NDArray[Any]]
INTEGER, NUMBER = pa.int64(), pa.float64()


def numbers(tree: Tree, name: str, types: Mapping[str, pa.DataType], findings: Findings) -> Columns:
    """Columns of a file of numbers with blanks between them, rows that cannot be read left out.

    Rows with surplus fields are read without these; a file of millions of lines takes a second or two. All values
    are finite.

    Args:
        name: path in the tree.
        types: of the file's columns, by the names that they get here.

    Raises:
        InputError: there is no such file.
    """
    path = tree.path(name)
    faults: list[tuple[int, str]] = []
    repaired: list[list[Any]] = []

    def odd(row: Any) -> str:
        fields = row.text.split()
        values = _values(fields, types)
        if values is None or len(fields) != len(types):
            faults.append((row.number, _fault(len(fields), len(types), values is not None)))
        if values is not None:
            repaired.append(values)
        return "skip"

    try:
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(column_names=list(types), use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=odd),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict(types), null_values=[], strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid:
        return _by_hand(tree.text(name), name, types, findings)
    findings.add_lines(name, faults)
    if repaired:
        extra = {key: [row[place] for row in repaired] for place, key in enumerate(types)}
        table = pa.concat_tables([table, pa.table(extra, schema=table.schema)])
    return _finite({key: table[key].to_numpy() for key in types}, name, findings)


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
    reader = csv.DictReader(_lines_only(tree.text(name)))
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


def _lines_only(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield line + "\n"


def _by_hand(text: str, name: str, types: Mapping[str, pa.DataType], findings: Findings) -> Columns:
    """As `numbers`, line by line, for files in which something is no number."""
    kept, faults = [], []
    for number, line in _lines(text):
        fields = line.split()
        values = _values(fields, types)
        if values is not None:
            kept.append(values)
        if values is None or len(fields) != len(types):
            faults.append((number, _fault(len(fields), len(types), values is not None)))
    findings.add_lines(name, faults)
    columns = {
        key: np.array([row[place] for row in kept], kind.to_pandas_dtype())
        for place, (key, kind) in enumerate(types.items())
    }
    return _finite(columns, name, findings)


def _values(fields: list[str], types: Mapping[str, pa.DataType]) -> list[Any] | None:
    """The first fields as numbers of these types; None where there are too few, or one is no such number."""
    if len(fields) < len(types):
        return None
    try:
        return [
            pa.scalar(float(text) if pa.types.is_floating(kind) else int(text), kind).as_py()
            for text, kind in zip(fields, types.values(), strict=False)
        ]
    except (ValueError, OverflowError):
        return None


def _fault(found: int, expected: int, usable: bool) -> str:
    if found > expected and usable:
        return f"{found} fields instead of {expected}; the first {expected} are used"
    return f"{found} fields, expected {expected} numbers; left out"


def _finite(columns: Columns, name: str, findings: Findings) -> Columns:
    good = np.ones(len(next(iter(columns.values()))), bool)
    for values in columns.values():
        good &= np.isfinite(values)
    if not good.all():
        findings.add("malformed", name, f"{(~good).sum()} lines with a number that is not finite; left out")
    return {key: values[good] for key, values in columns.items()}
