"""What is asked for: the images that a condition in SQL, or a list of keys, names."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from finer_ray.errors import QueryError
from finer_ray.report.site.map_data import main_map
from finer_ray.store.query import connect
from finer_ray.store.reading import Export

# Names beside the numbers of the classes, by the column of numbers.
CLASS_NAMES = {"label": "label_name", "predicted": "predicted_name", "target": "target_name"}
JOINED = """
SELECT {columns} FROM images AS i LEFT JOIN metrics AS m ON m.row = i.row AND m.map = $map
LEFT JOIN names AS n_label ON n_label.class = i.label
LEFT JOIN names AS n_predicted ON n_predicted.class = i.predicted
LEFT JOIN names AS n_target ON n_target.class = i.target
"""


@dataclass(frozen=True)
class Asked:
    """Images that were asked for.

    Attributes:
        words: the condition that they meet.
        rows: of `images`, sorted; at least one.
    """

    words: str
    rows: NDArray[np.int64]


def asked_for(export: Export, where: str | None = None, keys: Path | None = None) -> Asked | None:
    """The images that meet a condition and are on a list; None where neither is given.

    >>> from finer_ray.store.reading import open_export
    >>> asked_for(open_export("demo_export"), "localisation > 0.2 AND label = predicted").words
    'localisation > 0.2 AND label = predicted'

    Args:
        export: any.
        where: a condition in DuckDB's SQL over the columns of `images`, the metrics of the main map, and label_name,
            predicted_name and target_name; other views are at hand in subqueries.
        keys: a text file with a key of an image in each line; empty lines do not count.

    Raises:
        QueryError: the condition cannot be understood, the file cannot be read, or no image is asked for.
    """
    if where is None and keys is None:
        return None
    rows, words = export.images["row"].to_numpy(), []
    if where is not None:
        rows = np.intersect1d(rows, _meeting(export, where))
        words.append(" ".join(where.split()))
    if keys is not None:
        listed = _listed(keys)
        known = export.images.filter(pc.is_in(export.images["key"], pa.array(listed, pa.string())))
        rows = np.intersect1d(rows, known["row"].to_numpy())
        words.append(f"its key is one of {len(listed)} in {keys.name}")
    if not len(rows):
        raise QueryError(f"none of the {export.images.num_rows} images is one for which {' and '.join(words)}")
    return Asked(" and ".join(words), np.sort(rows))


def _meeting(export: Export, where: str) -> NDArray[np.int64]:
    """Rows of the images for which a condition is true."""
    with connect(export) as connection:
        table = connection.sql(_joined(export), params=_main(export))
        try:
            # A relation's filter takes one expression, and no statement.
            rows: NDArray[np.int64] = table.filter(where).project("row").fetchnumpy()["row"]
        except (duckdb.Error, ValueError, RuntimeError) as error:
            said = str(error).split("\n\n")[0]
            raise QueryError(
                f"--where {where!r} is no condition that the images can be asked: {said}\n"
                f"Columns: {', '.join(table.columns)}"
            ) from None
    return rows


def _joined(export: Export) -> str:
    """SQL for a line per image: its columns, names of its classes, and the metrics of one map; the first of a name
    counts, whatever its case."""
    own = export.schemas["images"].names
    columns = [("i", name, name) for name in own]
    columns += [(f"n_{column}", "name", name) for column, name in CLASS_NAMES.items()]
    columns += [("m", name, name) for name in export.schemas["metrics"].names if name not in ("row", "class", "map")]
    seen: dict[str, str] = {}
    for table, column, name in columns:
        seen.setdefault(name.lower(), f"{table}.{_quoted(column)} AS {_quoted(name)}")
    return JOINED.format(columns=", ".join(seen.values()))


def _main(export: Export) -> dict[str, str]:
    return {"map": main_map(export) if export.manifest.layout.maps else ""}


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _listed(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueryError(f"--keys {file}: a text file with a key a line is needed: {error}") from None
    return [line for line in lines if line.strip()]
