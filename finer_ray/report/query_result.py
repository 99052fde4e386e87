"""Answers: what a query found, for the screen or for other programs."""

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from finer_ray.errors import QueryError
from finer_ray.store.query import VIEWS

Format = Literal["csv", "json", "parquet"]
# Of a list that is shown whole, and of the beginning of a longer one, such as an embedding.
WHOLE, BEGINNING = 32, 3
EXAMPLES = (
    """\
SELECT n.name, map, count(*) AS images, round(avg(localisation), 3) AS on_object
FROM metrics JOIN names AS n USING (class) GROUP BY n.name, map ORDER BY n.name, map""",
    """\
SELECT key, p.name AS predicted, round(predicted_probability, 3) AS probability
FROM images JOIN names AS p ON p.class = predicted ORDER BY probability LIMIT 5""",
)


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.RecordBatchReader:
    """Run a query.

    Raises:
        QueryError: what DuckDB says is wrong with it, or that it wants a file.
    """
    try:
        answer = connection.sql(sql)
        if answer is not None:
            return answer.to_arrow_reader()
    except duckdb.PermissionException as error:
        raise QueryError(f"{error}\nA query reads the tables {', '.join(VIEWS)} and nothing else") from None
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    raise QueryError("there is no statement to answer")


def answer_table(reader: pa.RecordBatchReader, limit: int) -> tuple[Table, bool]:
    """The first rows for the screen, and whether there are more.

    Args:
        limit: of rows; 0 shows all.
    """
    table = Table()
    for field in reader.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left")
    for number, row in enumerate(_rows(reader)):
        if limit and number == limit:
            return table, True
        table.add_row(*(Text(_shown(value)) for value in row))
    return table, False


def write_answer(reader: pa.RecordBatchReader, format: Format) -> None:
    """All rows to the standard output: as CSV with a header, as JSON with an object in each line, or as Parquet."""
    writers: dict[str, Callable[[pa.RecordBatchReader], None]] = {
        "csv": _write_csv,
        "json": _write_json,
        "parquet": _write_parquet,
    }
    writers[format](reader)


def overview(connection: duckdb.DuckDBPyConnection) -> Table:
    """What there is to ask: tables, their lines and columns."""
    table = Table()
    for head in ("table", "lines", "columns"):
        table.add_column(head, justify="right" if head == "lines" else "left")
    for name in VIEWS:
        lines = connection.view(name).count("*").fetchall()[0][0]
        table.add_row(name, str(lines), ", ".join(connection.view(name).columns))
    return table


def _rows(reader: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    try:
        for batch in reader:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except (pa.ArrowException, duckdb.Error) as error:
        raise QueryError(str(error)) from None


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = value if len(value) <= WHOLE else value[:BEGINNING]
        more = [] if len(shown) == len(value) else [f"... {len(value)} in all"]
        return f"[{', '.join([*map(_shown, shown), *more])}]"
    text = str(value)
    # A key may hold anything, also what a terminal would obey.
    return text if text.isprintable() else repr(text)


# C0, DEL, C1 and the marks that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _write_csv(reader: pa.RecordBatchReader) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(map(_escaped, reader.schema.names))
    writer.writerows(map(_escaped, row) for row in _rows(reader))


def _escaped(value: Any) -> Any:
    """A cell in which what a terminal would obey is written as an escape; numbers stay as they are."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def _write_json(reader: pa.RecordBatchReader) -> None:
    names = reader.schema.names
    for row in _rows(reader):
        line = dict(zip(names, map(_plain, row), strict=True))
        sys.stdout.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_parquet(reader: pa.RecordBatchReader) -> None:
    if sys.stdout.isatty():
        raise QueryError("Parquet is not for the screen: send it to a file with > answer.parquet")
    with pq.ParquetWriter(sys.stdout.buffer, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
