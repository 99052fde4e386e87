"""Columns of the user's own in `images`: one type each, which all units and all later runs come together in.

A unit's part has the type that its values call for; publication takes the narrowest one that holds those of all parts
and of what was published before. So types only ever widen, nothing is lost, and readers cast the files of before.
"""

import json
from collections.abc import Iterable, Mapping
from functools import reduce

import pyarrow as pa

from finer_ray.images.sample import Plain
from finer_ray.store.tables import SCHEMAS

# By the names that a manifest has for them. A column without any value is text until it has one.
KINDS: dict[str, pa.DataType] = {
    "null": pa.string(),
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
}
_OF_VALUE = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "text"}
_OF_TYPE = {kind: name for name, kind in KINDS.items() if name != "null"} | {pa.null(): "null"}


def schemas_with(columns: Mapping[str, str]) -> dict[str, pa.Schema]:
    """SCHEMAS, in which `images` has these columns too.

    Args:
        columns: kinds, of KINDS, by name.
    """
    own = [pa.field(name, KINDS[kind]) for name, kind in columns.items()]
    return {**SCHEMAS, "images": pa.schema([*SCHEMAS["images"], *own])}


def with_own(images: pa.Table, values: pa.ChunkedArray) -> pa.Table:
    """A unit's images with the columns of the user's own, each of the type that its values call for.

    Args:
        images: n lines.
        values: n texts of JSON objects, each from names to plain values; null where no columns are asked for.
    """
    lines: list[dict[str, Plain]] = [json.loads(text) for text in values.to_pylist() if text is not None]
    for name in lines[0] if lines else ():
        column = [line[name] for line in lines]
        images = images.append_column(name, _array(column))
    return images


def widest(known: Mapping[str, str], parts: Iterable[pa.Schema]) -> dict[str, str]:
    """The kinds of own columns that hold what was known before, and what parts hold.

    >>> widest({"age": "integer", "sex": "null"}, [pa.schema({"age": pa.float64(), "sex": pa.null()})])
    {'age': 'number', 'sex': 'null'}

    Args:
        known: kinds by name.
        parts: schemas that `with_own` has led to, or of tables of all of a column's values; those of other columns
            do not count.
    """
    kinds = dict(known)
    for schema in parts:
        for name in kinds.keys() & set(schema.names):
            kinds[name] = _wider(kinds[name], _OF_TYPE[schema.field(name).type])
    return kinds


def _wider(one: str, other: str) -> str:
    """The narrowest kind that holds the values of two."""
    if "null" in (one, other):
        return other if one == "null" else one
    return one if one == other else "number" if {one, other} == {"integer", "number"} else "text"


def _array(values: list[Plain]) -> pa.Array:
    kind = reduce(_wider, (_OF_VALUE[type(value)] for value in values), "null")
    if kind == "null":
        return pa.nulls(len(values))
    if kind == "text":
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(values, KINDS[kind])
