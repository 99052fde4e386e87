"""Parquet shards: one row per sample, images in a binary column or in a struct with the field `bytes`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from finer_ray.config.messages import brief, printable, short_key
from finer_ray.images.sample import Sample
from finer_ray.retry import of_store
from finer_ray.shards.annotation import (
    MAX_JSON_BYTES,
    FieldError,
    descend,
    only_label,
    own_columns,
    parse_box,
    parse_json,
    parse_references,
    parse_text,
)
from finer_ray.shards.fields import Fields, Source, alternatives
from finer_ray.shards.files import open_random, size_of
from finer_ray.shards.format import Format
from finer_ray.shards.shard import ShardIndex, ShardRef

BATCH = 32
BUFFER = 4 * 2**20
FOOTER = 8
ROW_BYTES = 64
# A page may unpack to 2 GiB, and a value of a dictionary be repeated in every row at no cost: rows are taken singly
# unless a whole batch of the largest value that a row group can hold fits into this.
BATCH_BYTES = 2**30
# Images hardly compress: a row group of more than 256 MiB that unpacks to more than 50 times its file is a bomb.
LARGE_GROUP = 2**28
MAX_UNPACKED = 50
# Hive's name for the folder of rows whose value is null.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# Where earlier versions looked for a key; exports that they have begun go on with it.
FIRST_KEY = "__key__;key;id"
FIELDS = Fields("image;jpg;jpeg;png;webp", "label;cls", "box_xyxy", "mask", f"{FIRST_KEY};uuid;file_name")

NO_FOLDERS: Mapping[str, int | str | None] = {}


class ColumnError(ValueError):
    """The file has no column for a field that needs one."""


class Layout:
    """Fields, as columns of one file.

    Args:
        fields: of the config.
        columns: names of the file's own columns.
        folders: columns that the file's path tells, see `hive_columns`; texts and labels may stand there. A key that
            all rows share is taken only where the user asks for it.

    Raises:
        ColumnError: there is no column for the image, or for an annotation that the user asked for by a name other
            than the default.
    """

    def __init__(
        self, fields: Fields, columns: list[str], folders: Mapping[str, int | str | None] = NO_FOLDERS
    ) -> None:
        usual = FIELDS
        own_key = fields.key not in (usual.key, FIRST_KEY)
        self.images = _sources("image", fields.image, columns, needed=True)
        self.labels = _sources("label", fields.label, columns, fields.label != usual.label, folders)
        self.boxes = _sources("box", fields.box, columns, needed=fields.box != usual.box)
        self.masks = _sources("mask", fields.mask, columns, needed=fields.mask != usual.mask)
        self.parts = _sources("parts", fields.parts, columns, bool(fields.parts))
        self.keys = _sources("key", fields.key, columns, own_key, folders if own_key else NO_FOLDERS)
        self.texts = _sources("text", fields.text, columns, bool(fields.text), folders)
        self.contrast_texts = _sources(
            "contrast_text", fields.contrast_text, columns, bool(fields.contrast_text), folders
        )
        self.references = _sources("references", fields.references, columns, bool(fields.references))
        self.box_format = fields.box_format
        self.own = tuple((name, _sources(name, text, columns, False, folders)) for name, text in fields.columns)

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        parts = [self.images, self.labels, self.boxes, self.masks, self.keys, self.texts, self.contrast_texts]
        parts += [self.references, self.parts, *(sources for _, sources in self.own)]
        return _to_read(source for part in parts for source in part)


def index(ref: ShardRef, fields: Fields, rows_per_unit: int) -> ShardIndex:
    """Count a Parquet shard from its footer. Raises where the file cannot be opened or has no Parquet footer."""
    with open_random(ref.url) as file:
        parquet, _, rows = _opened(file)
        mark = fingerprint(file)
        try:
            Layout(fields, parquet.schema_arrow.names, hive_columns(ref.url))
        except ColumnError as error:
            return ShardIndex(ref, 0, mark, (), str(error))
    return ShardIndex(ref, rows, mark, tuple(range(0, rows, rows_per_unit)))


def keys(ref: ShardRef, fields: Fields) -> Iterator[str]:
    """Keys of the rows that `index` counts, in order; '' where a row's key cannot be read."""
    with open_random(ref.url) as file:
        parquet, size, rows = _opened(file)
        try:
            layout = Layout(fields, parquet.schema_arrow.names, hive_columns(ref.url))
        except ColumnError:
            return
        yield from _keys(parquet, size, layout, 0, rows)


def _opened(file: BinaryIO) -> tuple[pq.ParquetFile, int, int]:
    """The file, its bytes, and its rows: those of all row groups, which the footer's own sum need not be.

    Raises:
        ValueError: more rows than bytes.
        OSError, ArrowException: no Parquet footer.
    """
    parquet, size = pq.ParquetFile(file, buffer_size=BUFFER, page_checksum_verification=True), size_of(file)
    groups = (parquet.metadata.row_group(group) for group in range(parquet.metadata.num_row_groups))
    rows = sum(max(0, group.num_rows) for group in groups)
    if rows > size:
        raise ValueError(f"the footer claims {rows} rows in a file of {size} bytes")
    return parquet, size, rows


def _keys(parquet: pq.ParquetFile, size: int, layout: Layout, start: int, stop: int) -> Iterator[str]:
    """Keys of rows [start, stop), whether the rest of a row can be read or not."""
    for row in _rows(parquet, size, _to_read(layout.keys), start, stop):
        yield "" if isinstance(row, Broken) else _key(layout, row)


def read(ref: ShardRef, fields: Fields, start: int, count: int, max_member_bytes: int) -> Iterator[Sample]:
    """Up to `count` samples from a row on; those of a row group that cannot be read keep their keys.

    Only the row groups that hold those rows are read, and of them only the columns needed; a row group is read
    from its beginning, so row groups much larger than a unit of work cost time.

    Raises:
        OSError, ArrowException: the file cannot be opened or has no Parquet footer.
    """
    with open_random(ref.url) as file:
        parquet, size, _ = _opened(file)
        try:
            layout = Layout(fields, parquet.schema_arrow.names, hive_columns(ref.url))
        except ColumnError as error:
            yield from (Sample("", error=str(error)) for _ in range(count))
            return
        rows = _rows(parquet, size, layout.columns, start, start + count)
        names = enumerate(_keys(parquet, size, layout, start, start + count), start)
        for number, row in enumerate(rows, start):
            if isinstance(row, Broken):
                key = next(key for name, key in names if name == number)
                yield Sample(key, error=row.reason)
            else:
                yield _sample(layout, row, max_member_bytes)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch; values become Python objects on demand."""

    number: int
    batch: pa.RecordBatch | None
    offset: int

    def value(self, column: str, limit: int) -> Any:
        """The value of a column. Raises FieldError where it has more bytes, or Arrow cannot convert it."""
        if self.batch is None:
            return None
        try:
            value = self.batch.column(column).slice(self.offset, 1)
            if pa.types.is_dictionary(value.type):
                value = value.dictionary_decode()
            # Offsets and bits of the row come on top of its value.
            if (size := value.nbytes) <= limit + ROW_BYTES:
                return value[0].as_py()
        except Exception as error:
            raise FieldError(f"{column}: {brief(error)}") from None
        raise FieldError(f"{column}: {size} bytes are more than the allowed {limit}")


@dataclass(frozen=True, slots=True)
class Broken:
    """A row whose row group cannot be read."""

    reason: str


def _rows(parquet: pq.ParquetFile, size: int, columns: list[str], start: int, stop: int) -> Iterator[Row | Broken]:
    """Rows [start, stop) as far as the file has them; a row group that fails gives Broken for its remaining rows."""
    first = 0
    for group in range(parquet.metadata.num_row_groups):
        rows = max(0, parquet.metadata.row_group(group).num_rows)
        begin, end = max(start, first), min(stop, first + rows)
        if begin < end:
            yield from _group_rows(parquet, size, columns, group, first, begin, end)
        first += rows


def _group_rows(
    parquet: pq.ParquetFile, size: int, columns: list[str], group: int, first: int, begin: int, end: int
) -> Iterator[Row | Broken]:
    done = begin
    reason = "it holds fewer rows than the footer says"
    if not columns:
        yield from (Row(number, None, 0) for number in range(begin, end))
        return
    try:
        # A column chunk's own sizes are not asked for: where its statistics are damaged, Arrow ends the process.
        batch_size = _batch_size(parquet.metadata.row_group(group).total_byte_size, size)
        for batch in parquet.iter_batches(batch_size=batch_size, row_groups=[group], columns=columns):
            for number in range(max(first, done), min(first + batch.num_rows, end)):
                yield Row(number, batch, number - first)
                done = number + 1
            first += batch.num_rows
            if done >= end:
                return
    except Exception as error:
        if of_store(error):
            raise
        reason = brief(error)
    yield from (Broken(f"row group {group} cannot be read: {reason}") for _ in range(done, end))


def _batch_size(unpacked: int, size: int) -> int:
    """How many rows to unpack at a time of a row group of so many bytes in a file of that size.

    Raises:
        ValueError: a decompression bomb.
    """
    if unpacked > max(LARGE_GROUP, MAX_UNPACKED * size):
        raise ValueError(
            f"a decompression bomb: {unpacked} bytes, more than {MAX_UNPACKED} times as many as the whole file"
        )
    return min(BATCH, max(1, BATCH_BYTES // max(1, unpacked)))


def _sample(layout: Layout, row: Row, limit: int) -> Sample:
    key = _key(layout, row)
    try:
        image = _bytes(*_first(layout.images, row, "image", limit), limit)
        label = _parsed(layout.labels, row, only_label)
        box = _parsed(layout.boxes, row, partial(parse_box, box_format=layout.box_format))
        mask, ids = (_mask(sources, row, limit) for sources in (layout.masks, layout.parts))
        text, contrast_text = (_parsed(sources, row, parse_text) for sources in (layout.texts, layout.contrast_texts))
        references = _parsed(layout.references, row, parse_references)
        own = own_columns(layout.own, partial(_own, row))
    except FieldError as error:
        return Sample(key, error=str(error))
    return Sample(key, image, label, box, mask, text, contrast_text, references=references, columns=own, parts=ids)


def _key(layout: Layout, row: Row) -> str:
    try:
        found = _value(layout.keys, row, MAX_JSON_BYTES)
    except FieldError:
        return ""
    if found is None:
        return str(row.number)
    key = found[1]
    return short_key(key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else printable(str(key)))


def _value(sources: tuple[Source, ...], row: Row, limit: int) -> tuple[str, Any] | None:
    """Name and value of the first alternative that is not null."""
    for source in sources:
        value = source.constant[0] if source.constant else row.value(source.place, limit)
        if source.path and isinstance(value, str | bytes):
            value = parse_json(source.place, value)
        value = descend(source.place, value, source.path)
        if value is not None:
            return source.name, value
    return None


def _first(sources: tuple[Source, ...], row: Row, field: str, limit: int) -> tuple[str, Any]:
    found = _value(sources, row, limit)
    if found is None:
        raise FieldError(f"{field}: null in {', '.join(source.name for source in sources)}")
    return found


def _parsed(sources: tuple[Source, ...], row: Row, parse: Any) -> Any:
    found = _value(sources, row, MAX_JSON_BYTES)
    return parse(*found) if found else None


def _mask(sources: tuple[Source, ...], row: Row, limit: int) -> bytes | None:
    found = _value(sources, row, limit)
    return _bytes(*found, limit) if found else None


def _own(row: Row, sources: tuple[Source, ...]) -> Any:
    found = _value(sources, row, MAX_JSON_BYTES)
    return found and found[1]


def _bytes(name: str, value: Any, limit: int) -> bytes:
    """The encoded image in a binary value, or in the field `bytes` of a struct (as Hugging Face writes it)."""
    if isinstance(value, dict) and "bytes" in value:
        value = value["bytes"]
        if value is None:
            raise FieldError(f"{name}: image bytes are not embedded (only a path is); embed them when exporting")
    if not isinstance(value, bytes):
        raise FieldError(f"{name}: expected image bytes, got {type(value).__name__}")
    if len(value) > limit:
        raise FieldError(f"{name}: {len(value)} bytes are more than the allowed {limit}")
    return value


def _sources(
    field: str,
    text: str,
    columns: list[str],
    needed: bool,
    folders: Mapping[str, int | str | None] = NO_FOLDERS,
) -> tuple[Source, ...]:
    found = tuple(source for part in alternatives(text) if (source := _source(part, columns, folders)))
    if not found and (needed and (text or field == "image")):
        wanted, there = ", ".join(alternatives(text)) or "nothing", ", ".join((*columns, *folders))
        raise ColumnError(f"no column for the {field}: looked for {wanted}; columns: {there[:500]}")
    return found


def _source(alternative: str, columns: list[str], folders: Mapping[str, int | str | None]) -> Source | None:
    """The longest leading part of an alternative that is a column, with the rest as the path into it."""
    parts = alternative.split(".")
    for cut in range(len(parts), 0, -1):
        column, path = ".".join(parts[:cut]), tuple(parts[cut:])
        if column in columns:
            return Source(column, path)
        if column in folders:
            return Source(column, path, (folders[column],))
    return None


def _to_read(sources: Iterable[Source]) -> list[str]:
    """The columns of these that stand in the file itself."""
    return sorted({source.place for source in sources if source.constant is None})


def hive_columns(url: str) -> dict[str, int | str | None]:
    """Columns that the folders of a file's path tell as Hive writes them, `label=5`; whole numbers are integers."""
    found: dict[str, int | str | None] = {}
    for folder in url.split("/")[:-1]:
        name, marked, text = (unquote(part) for part in folder.partition("="))
        if name and marked:
            whole = re.fullmatch("-?[0-9]{1,18}", text)
            found[name] = None if text in ("", HIVE_NULL) else int(text) if whole else text
    return found


def published_names(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """Class names of the first of these columns that has some in Hugging Face's metadata; none where none has."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        named = (features[column].get("names") for column in columns if column in features)
        return next(([str(name) for name in names] for names in named if isinstance(names, list)), [])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return []


def class_names(shards: Sequence[ShardRef], fields: Fields) -> list[str]:
    """Names of the integer labels, as Hugging Face writes them into a file. Raises OSError where it cannot be read."""
    with open_random(shards[0].url) as file:
        return published_names(_opened(file)[0].schema_arrow, alternatives(fields.label))


def fingerprint(file: BinaryIO) -> str:
    """Digest of the footer, which holds every column chunk's offset, size and statistics, and of the file's size."""
    size = size_of(file)
    file.seek(size - FOOTER)
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(0, size - FOOTER - length))
    return sha256(str(size).encode() + file.read(length)).hexdigest()


PARQUET = Format(
    name="parquet",
    description="a row per sample; folders of its path, as `label=5`, are columns too",
    suffixes=(".parquet", ".pq"),
    fields=FIELDS,
    index=index,
    keys=keys,
    read=read,
    other_fields={
        "image": ("img", "photo", "picture", "bytes", "image_bytes"),
        "label": ("labels", "class", "class_name", "category", "species", "fine_label", "category_id"),
        "box": ("box", "bbox"),
        "mask": ("segmentation",),
    },
    class_names=class_names,
)
