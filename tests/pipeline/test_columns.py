"""The user's own columns: from shards of any format into `images`, over units, shards and runs."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError
from finer_ray.pipeline.export import export
from finer_ray.store.query import connect
from finer_ray.store.reading import open_export
from finer_ray.store.tables import IMAGES
from finer_ray.store.verify import verify_export
from tests.conftest import Members, photo, write_tar

Job = Callable[..., Config]


def tar(path: Path, notes: list[dict[str, Any]]) -> Path:
    members: Members = []
    for i, note in enumerate(notes):
        members += [(f"{i}.jpg", photo(i)), (f"{i}.json", json.dumps(note).encode())]
    return write_tar(path, members)


def own(config: Config) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """Types and values of the user's own columns, as Arrow reads them and as DuckDB does."""
    made = open_export(config.output.url)
    table = made.images.drop_columns(IMAGES.names)
    with connect(made) as connection:
        again = connection.sql("FROM images ORDER BY row").to_arrow_table().select(table.column_names)
    assert again.to_pydict() == table.to_pydict()
    assert again.schema.types == table.schema.types
    assert verify_export(config.output.url) == []
    return {field.name: str(field.type) for field in table.schema}, table.to_pydict()


def test_means_of_a_metric_by_a_column_of_the_users_own(tmp_path: Path, job: Job) -> None:
    notes = [{"species": f"s{i % 2}", "bird": {"sex": "fm"[i % 2]}, "x": i / 2} for i in range(12)]
    config = job(
        str(tar(tmp_path / "a.tar", notes)),
        input={"columns": ["json.species", "json.bird.sex", "json.x"]},
        metrics={"deletion": True, "steps": 2},
    )
    export(config)
    with connect(config.output.url) as connection:
        found = connection.sql(
            "SELECT species, any_value(sex), count(*), avg(x), avg(deletion_auc) FROM images JOIN metrics USING (row) "
            "WHERE map = 'gradcam' GROUP BY species ORDER BY species"
        ).fetchall()
    assert [line[:4] for line in found] == [("s0", "f", 6, 2.5), ("s1", "m", 6, 3.0)]
    scores = open_export(config.output.url).metrics.to_pylist()
    known = [s["deletion_auc"] for s in scores if s["map"] == "gradcam" and s["row"] % 2 == 0]
    assert found[0][4] == pytest.approx(sum(known) / 6)


def test_types_are_those_that_hold_all_units(tmp_path: Path, job: Job) -> None:
    """Units of 8 images: what a column is, the third of them decides."""
    notes: list[dict[str, Any]] = [{"a": i, "b": i, "c": True, "d": None, "e": 2**53 + 1} for i in range(20)]
    notes[17] |= {"a": 0.5, "b": "many", "c": None, "d": [1, {"x": 2}]}
    notes[18] |= {"a": float("nan"), "c": False, "d": "\ud800", "e": {}}
    del notes[19]["a"]
    config = job(str(tar(tmp_path / "a.tar", notes)), input={"columns": [f"json.{name}" for name in "abcde"]})
    export(config)
    types, values = own(config)
    assert types == {"a": "double", "b": "string", "c": "bool", "d": "string", "e": "string"}
    assert values["a"] == [*map(float, range(17)), 0.5, None, None]
    assert values["b"] == [*map(str, range(17)), "many", "18", "19"]
    assert values["c"] == [True] * 17 + [None, False, True]
    assert values["d"] == [None] * 17 + ['[1, {"x": 2}]', "\\ud800", None]
    assert values["e"] == [str(2**53 + 1)] * 18 + ["{}", str(2**53 + 1)]


def test_later_runs_widen_types_and_keep_what_was_published(tmp_path: Path, job: Job) -> None:
    tar(tmp_path / "in" / "a.tar", [{"n": 1, "m": 1}, {"n": 2, "m": None}])
    config = job(str(tmp_path / "in" / "*.tar"), input={"columns": ["json.n", "json.m", "json.late"]})
    told = export(config).notes
    assert own(config)[0] == {"n": "int64", "m": "int64", "late": "string"}
    assert len(told) == 1
    assert told[0].startswith("input.columns: late has no value in any image")

    files = open_export(config.output.url).manifest.tables["images"]
    before = [(tmp_path / "out" / file).read_bytes() for file in files]
    tar(tmp_path / "in" / "b.tar", [{"n": 0.5, "m": "x", "late": 7}])
    assert export(config).notes == []
    types, values = own(config)
    assert types == {"n": "double", "m": "string", "late": "int64"}
    assert values == {"n": [1.0, 2.0, 0.5], "m": ["1", None, "x"], "late": [None, None, 7]}
    assert [(tmp_path / "out" / file).read_bytes() for file in files] == before

    # Rows of a shard that has changed are taken out of files whose types are narrower than the columns' now.
    tar(tmp_path / "in" / "b.tar", [{"n": 3, "m": 4, "late": 8}])
    export(job(str(tmp_path / "in" / "*.tar"), input={"columns": config.input.columns, "on_changed": "replace"}))
    assert own(config)[1] == {"n": [1.0, 2.0, 3.0], "m": ["1", None, "4"], "late": [None, None, 8]}


def test_another_value_is_a_change_of_the_shard(tmp_path: Path, job: Job) -> None:
    path = tar(tmp_path / "a.tar", [{"n": 1}])
    config = job(str(path), input={"columns": ["json.n"]})
    export(config)
    tar(path, [{"n": 2}])
    with pytest.raises(ExportError, match="1 changed"):
        export(config)
    with pytest.raises(ExportError, match=r"input\.columns\.n 'json\.n' there, not given here"):
        export(job(str(path), input={"on_changed": "replace"}))


def test_columns_of_parquet(tmp_path: Path, job: Job) -> None:
    day = datetime.date(2020, 1, 2)
    table = pa.table(
        {
            "image": [photo(i) for i in range(3)],
            "age": pa.array([3, None, 5], pa.int16()),
            "mass": pa.array([1.5, None, 2.0], pa.float32()),
            "sex": pa.array(["f", "m", None]).dictionary_encode(),
            "day": pa.array([day, None, day]),
            "wild": pa.array([True, None, False]),
            "meta": pa.array([{"site": "A", "n": [1]}, None, {"site": None, "n": []}]),
            "note": pa.array(['{"by": "me"}', "no JSON", None]),
            "label": ["cat", "dog", "cat"],
        }
    )
    place = tmp_path / "country=NZ" / "a.parquet"
    place.parent.mkdir()
    pq.write_table(table, place)
    columns = {name: name for name in ("age", "mass", "sex", "day", "wild", "country")}
    columns |= {"site": "meta.site", "n": "meta.n", "author": "note.by", "said": "label", "first": "nothing;age"}
    export(job(str(place), input={"columns": columns, "fields": {"label": ""}}))
    types, values = own(job(str(place)))
    assert types == {
        **dict.fromkeys(columns, "string"),
        "age": "int64",
        "mass": "double",
        "wild": "bool",
        "first": "int64",
    }
    assert values == {
        "age": [3, None, 5],
        "mass": [1.5, None, 2.0],
        "sex": ["f", "m", None],
        "day": ["2020-01-02", None, "2020-01-02"],
        "wild": [True, None, False],
        "country": ["NZ"] * 3,
        "site": ["A", None, None],
        "n": ["[1]", None, "[]"],
        "author": ["me", None, None],
        "said": ["cat", "dog", "cat"],
        "first": [3, None, 5],
    }


def test_no_image_fails_for_the_sake_of_a_column(tmp_path: Path, job: Job) -> None:
    """A unit of which all images fail has no such column; a member that is no JSON, or no object, gives null."""
    members: Members = [(f"{i}.jpg", b"none") for i in range(8)]
    members += [("8.jpg", photo(8)), ("8.note.json", b"{"), ("8.txt", b" caf\xe9 ")]
    members += [("9.jpg", photo(9)), ("9.note.json", b'"text"'), ("9.txt", "käuzchen".encode())]
    config = job(
        str(write_tar(tmp_path / "a.tar", members)),
        input={"columns": ["note.json.x", "txt"], "max_failures": 1.0},
    )
    assert export(config).failures == 8
    assert own(config)[1] == {"x": [None, None], "txt": ["caf\\xe9", "käuzchen"]}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["species", "label"], "images has a column 'label' already; give another name, as in {my_label: label}"),
        ({"ROW": "x"}, "images has a column 'row' already"),
        (["json.sex", "sex"], "two of them are called 'sex'"),
        ({"Sex": "a", "sEX": "b"}, "images has a column 'sex' already"),
        (["json."], "must name a column and a field"),
        ([["species"]], "must be a list of fields"),
    ],
)
def test_names_that_cannot_be(job: Job, columns: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        job("a.tar", input={"columns": columns})
    assert "input.columns: " in str(error.value)
    assert said in str(error.value)


def test_a_list_and_a_mapping_are_the_same_job_and_none_is_what_it_was(job: Job) -> None:
    one, two = (
        job("a.tar", input={"columns": columns}) for columns in (["b", "json.x;a"], {"x": "json.x;a", "b": "b"})
    )
    assert one.fingerprint() == two.fingerprint() != job("a.tar").fingerprint()
    assert job("a.tar", input={"columns": []}).fingerprint() == job("a.tar").fingerprint()
    # As of the version before there were columns.
    before = {"output": {"rows_per_unit": 512, "rows_per_chunk": 32}, "saliency": {"registration": "stretch"}}
    plain = job("x.tar", model={"image_size": None}, **before)
    assert plain.fingerprint() == "62bbb089129d9343"
