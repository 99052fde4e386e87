"""The user's own columns: pieces of any values come together in one type, and say what they said."""

import json
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from finer_ray.shards.annotation import plain
from finer_ray.store.columns import KINDS, schemas_with, widest, with_own
from finer_ray.store.tables import conform

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
ALIKE = st.sampled_from([st.booleans(), st.integers(), st.floats(), st.integers(-9, 9) | st.floats(), JSON])
PIECES = ALIKE.flatmap(lambda kind: st.lists(st.lists(st.none() | kind, max_size=3), min_size=1, max_size=4))


@given(pieces=PIECES)
def test_pieces_are_what_they_were_together(pieces: list[list[Any]]) -> None:
    values = [[plain(value) for value in piece] for piece in pieces]
    tables = []
    for piece in values:
        lines = pa.array([json.dumps({"x": value}) for value in piece], pa.string())
        tables.append(with_own(pa.table({"row": pa.array(range(len(piece)), pa.int64())}), pa.chunked_array([lines])))
    kinds = widest({"x": "null"}, [table.schema for table in tables])
    for order in (tables[::-1], tables[1:] + tables[:1]):
        assert widest({"x": "null"}, [table.schema for table in order]) == kinds
    schema = pa.schema([pa.field("row", pa.int64()), schemas_with(kinds)["images"].field("x")])
    found = pa.concat_tables([conform(table, schema) for table in tables])["x"].to_pylist()
    known = [value for piece in values for value in piece]
    assert [value is None for value in found] == [value is None for value in known]
    if kinds["x"] == "text":
        assert [value for value in found if value is not None] == [_text(value) for value in known if value is not None]
    else:
        assert found == known


def _text(value: Any) -> Any:
    """Numbers as Arrow or JSON write them are the same numbers."""
    return value if isinstance(value, str) else _Number(value)


class _Number:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and json.loads(other.replace("inf", "Infinity")) == self.value


def test_a_kind_is_told_by_its_type() -> None:
    for kind, arrow in KINDS.items():
        if kind != "null":
            assert widest({"x": "null"}, [pa.schema({"x": arrow})]) == {"x": kind}
            assert widest({"x": kind}, [pa.schema({"x": pa.null()})]) == {"x": kind}
