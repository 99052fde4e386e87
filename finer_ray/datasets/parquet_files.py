"""Parquet files packed anew: labels, boxes and all small columns are listed, images stay where they are.

Columns are those of the Parquet shards' defaults. A split is a column `split`, or the beginning of the file's name.
Class names are those of Hugging Face's metadata, or of a column `name`, or the labels themselves where these are text.
"""

import json
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finer_ray.config.messages import brief
from finer_ray.datasets.dataset import Choice, Dataset
from finer_ray.datasets.listing import Findings, Listing, Record, clean_names, split_name, unique_keys
from finer_ray.errors import InputError
from finer_ray.shards.annotation import FieldError, parse_box, parse_label
from finer_ray.shards.fields import alternatives
from finer_ray.shards.files import open_random
from finer_ray.shards.find import find_shards
from finer_ray.shards.parquet import FIELDS, Layout, fingerprint, published_names
from finer_ray.shards.splits import is_split

LABEL_COLUMNS, KEY_COLUMNS = alternatives(FIELDS.label), alternatives(FIELDS.key)
HEAD = ("label", "name", "box_xyxy", "split", "image")
MAX_CLASSES = 100_000
Row = dict[str, Any]


def read(source: str, choice: Choice) -> Listing:
    """List the rows of Parquet files. Raises InputError where there are none, or none has an image column.

    Args:
        source: a file, a folder of them, or a glob: local or any other fsspec URL.
        choice: has one value only.
    """
    findings = Findings()
    rows: list[tuple[str, str, int, Row]] = []
    published: list[str] = []
    for url in _urls(source):
        try:
            with open_random(url) as file:
                names, found = _small_columns(file)
                stamp = fingerprint(file)
        except Exception as error:
            findings.add("unreadable", url, brief(error))
            continue
        published = published or names
        rows += [(url, stamp, number, row) for number, row in enumerate(found)]
    if not rows:
        raise InputError(f"--source: no rows in the Parquet files of {source!r}{_first(findings)}")
    labels = [_label(row, f"{url}#{number}", findings) for url, _, number, row in rows]
    classes = clean_names(published or _names(rows, labels))
    places = {name: label for label, name in reversed(list(enumerate(classes)))}
    records = []
    for (url, stamp, number, row), label, key in zip(rows, labels, unique_keys(map(_key, rows)), strict=True):
        place = places.get(label) if isinstance(label, str) else label
        name = row.get("name") if place is None or place >= len(classes) else classes[place]
        box = _box(row, f"{url}#{number}", findings)
        notes = json.dumps(_notes(row), default=str)
        records.append(Record(key, url, stamp, _split(url, row), place, name, box, None, notes, number))
    return Listing(records, classes, findings)


def _urls(source: str) -> list[str]:
    try:
        return [ref.url for ref in find_shards([source], "parquet")]
    except InputError as error:
        raise InputError(str(error).replace("input.shards", "--source")) from None


def _first(findings: Findings) -> str:
    return f" ({findings[0]})" if findings else ""


def _small_columns(file: Any) -> tuple[list[str], list[Row]]:
    """Class names of the file's metadata, and its rows without the columns that hold bytes."""
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    Layout(FIELDS, parquet.schema_arrow.names)
    small = [column.name for column in parquet.schema_arrow if not _holds_bytes(column.type)]
    table = parquet.read(columns=small)
    rows = table.to_pylist() if small else [{} for _ in range(parquet.metadata.num_rows)]
    return published_names(parquet.schema_arrow, LABEL_COLUMNS), rows


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )  # fmt: skip


def _label(row: Row, where: str, findings: Findings) -> int | str | None:
    """A class index, a class name, or None; negative numbers stand for no label, as in Hugging Face's test sets."""
    value = next((row[column] for column in LABEL_COLUMNS if row.get(column) is not None), None)
    if value is None:
        return None
    try:
        label = parse_label("label", value)
    except FieldError as error:
        findings.add("malformed", where, str(error))
        return None
    return None if isinstance(label, int) and label < 0 else label


def _names(rows: list[tuple[str, str, int, Row]], labels: list[int | str | None]) -> list[str]:
    texts = sorted({label for label in labels if isinstance(label, str)})
    if texts:
        return texts
    said = {label: row["name"] for (*_, row), label in zip(rows, labels, strict=True) if row.get("name")}
    most = max((label for label in labels if isinstance(label, int)), default=-1)
    return [str(said.get(label, label)) for label in range(most + 1)] if most < MAX_CLASSES else []


def _key(row: tuple[str, str, int, Row]) -> str:
    url, _, number, values = row
    key = next((values[column] for column in KEY_COLUMNS if values.get(column) is not None), None)
    return str(key) if key is not None else f"{url.rsplit('/', 1)[-1].removesuffix('.parquet')}_{number:06d}"


def _split(url: str, row: Row) -> str | None:
    if isinstance(row.get("split"), str) and row["split"]:
        return split_name(row["split"])
    head = re.match(r"[A-Za-z]+", url.rsplit("/", 1)[-1])
    return split_name(head[0]) if head and is_split(head[0]) else None


def _box(row: Row, where: str, findings: Findings) -> Any:
    if row.get("box_xyxy") is None:
        return None
    try:
        return parse_box("box_xyxy", row["box_xyxy"], "xyxy")
    except FieldError as error:
        findings.add("malformed", where, str(error))
        return None


def _notes(row: Row) -> Row:
    """What else the row says; of a column `json`, as this project writes it, the content."""
    known = {*LABEL_COLUMNS, *KEY_COLUMNS, *HEAD, "json"}
    notes = {column: value for column, value in row.items() if column not in known and value is not None}
    try:
        inner = json.loads(row.get("json") or "{}")
    except (ValueError, TypeError, RecursionError):
        inner = row["json"]
    if not isinstance(inner, dict):
        return {**notes, "json": inner}
    return {**notes, **{key: value for key, value in inner.items() if key not in HEAD}}


PARQUET_FILES = Dataset("parquet", "every small column", read)
