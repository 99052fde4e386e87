"""Pairs for the screen."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from finer_ray.config.messages import nearest
from finer_ray.errors import QueryError

NUMBERS = ("images", "taken for it", "back", "cosine", "logit gap", "evidence")


def class_index(classes: Sequence[str], name: str, option: str = "--class") -> int:
    """The index of a class.

    Args:
        classes: names, of an export's manifest.
        name: one of them, or an index.
        option: of the command line that gave it, for messages.

    Raises:
        QueryError: no class is called so, or several are.

    >>> class_index(["crow", "owl"], "owl"), class_index(["crow", "owl"], "0")
    (1, 0)
    """
    found = [index for index, known in enumerate(classes) if known == name]
    if not found and name.isascii() and name.isdigit() and int(name) < len(classes):
        return int(name)
    if not found:
        raise QueryError(f"{option}: no class of the export is called {name!r}{nearest(name, classes)}")
    if len(found) > 1:
        raise QueryError(f"{option}: {len(found)} classes are called {name!r}: give an index ({found[0]}, {found[1]})")
    return found[0]


def shown_pairs(pairs: pa.Table, index: int | None, limit: int) -> tuple[Table, list[str]]:
    """The pairs that are taken for each other most often, then those of most images; and what is to be said of them.

    Args:
        pairs: with the schema PAIRS.
        index: of the class whose pairs are shown; None: all.
        limit: how many are shown; 0: all.
    """
    if index is not None:
        pairs = pairs.filter(pc.equal(pairs["class"], index))
    confused = pc.add(*(pc.fill_null(pairs[name], 0) for name in ("confused", "confused_back")))
    order = [("confusions", "descending"), ("images", "descending"), ("class", "ascending"), ("reference", "ascending")]
    chosen = pc.sort_indices(pairs.append_column("confusions", confused), order)
    shown = pairs.take(chosen if limit == 0 else chosen[:limit])
    parts = any(shown["parts"].to_pylist())
    table = Table()
    for head in ("class", "reference"):
        table.add_column(head)
    for head in NUMBERS:
        table.add_column(head, justify="right")
    for head in [*["most on part"] * parts, "rows that show it most"]:
        table.add_column(head)
    for line in shown.to_pylist():
        cells = [*map(_plain, (line["name"], line["reference_name"])), *map(_number, _numbers(line))]
        cells += [_part(line)] * parts
        table.add_row(*map(Text, [*cells, " ".join(map(str, line["most"] or ["-"]))]))
    return table, _notes(pairs, index, len(shown))


def _plain(name: str) -> str:
    """A name may hold anything, also what a terminal would obey."""
    return name if name.isprintable() else repr(name)


def _numbers(line: dict[str, Any]) -> list[float | int | None]:
    names = ("images", "confused", "confused_back", "cosine", "logit_gap", "evidence_positive")
    return [line[name] for name in names]


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _part(line: dict[str, Any]) -> str:
    """The part that has most of the evidence beyond its share of the cells."""
    cells = dict(line["part_cells"] or [])
    ranked = sorted(line["parts"] or [], key=lambda part: (cells[part[0]] - (part[1] or 0.0), part[0]))
    if not ranked:
        return "-"
    part, share = ranked[0]
    return f"{part} {share or 0:.0%} (of cells {cells[part]:.0%})"


def _notes(pairs: pa.Table, index: int | None, shown: int) -> list[str]:
    notes = []
    if shown < len(pairs):
        notes.append(f"{shown} of {len(pairs)} pairs; --rows 0 shows all, `finer-ray query OUT` asks pairs in SQL")
    if not len(pairs):
        return [f"no pairs: no image {'' if index is None else 'of this class '}is compared with a reference"]
    lacks = {
        "confused": "no image is labelled with one of these classes, so nothing is known of confusions",
        "cosine": "some cosines are not known: they need the classifier's weights, which the export's job has; run it "
        "again with output.pairs: true",
        "evidence": "there is no evidence: the export was made with output.basis: false",
    }
    for column, why in lacks.items():
        nulls = pairs[column].null_count
        if nulls == len(pairs) or (column == "cosine" and nulls):
            notes.append(why)
    return notes
