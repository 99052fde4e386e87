"""A study's output: Parquet tables and figures in one folder."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure


def write_study(folder: Path, tables: Mapping[str, pa.Table], figures: Mapping[str, Figure]) -> list[Path]:
    """Write each table as NAME.parquet and each figure as NAME.png; what stood there is replaced.

    Returns:
        The files, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = []
    for name, table in tables.items():
        places.append(folder / f"{name}.parquet")
        pq.write_table(table, places[-1])
    for name, figure in figures.items():
        places.append(folder / f"{name}.png")
        figure.savefig(places[-1])
    return places
