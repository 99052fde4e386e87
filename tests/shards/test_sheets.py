"""Sheets beside images: what they say, however they are written, and what they cannot do."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finer_ray.errors import ExportError
from finer_ray.images.sample import Sample
from finer_ray.pipeline.export import export
from finer_ray.shards import ShardIndex, ShardRef, fields_of, find_shards, index_shard, list_keys, read_unit
from finer_ray.shards.sheets import Sheets, read_sheet
from finer_ray.starter import inspect_data
from finer_ray.store.reading import open_export
from tests.conftest import photo
from tests.pipeline.test_columns import Job, own
from tests.shards.test_folder import put


def read_all(url: Path | str, **given: Any) -> tuple[ShardIndex, dict[str, Sample]]:
    fields = fields_of("folder", {**given, "columns": tuple((name, name) for name in given.get("columns", ()))})
    ref = ShardRef(str(url), "folder")
    index = index_shard(ref, fields, 100)
    samples = list(read_unit(ref, fields, 0, index.count, 2**20)) if index.starts else []
    assert [sample.key for sample in samples] == list(list_keys(ref, fields))[: index.count]
    return index, {sample.key: sample for sample in samples}


def test_csv_as_hugging_face_has_it(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.jpg", photo(1))
    put(tmp_path / "2.png", photo(2))
    put(tmp_path / "unnamed.jpg", photo(3))
    text = "file_name,label,age,mass,wild,code,bbox\r\n"
    text += 'a/1.jpg,"barn owl, young",3,1.5,true,007,"[1, 2, 30, 40]"\r\n./2.png,tit,,2,False,12,\r\n'
    put(tmp_path / "metadata.csv", text.encode("utf-8-sig"))
    columns = ["age", "mass", "wild", "code", "nothing"]
    index, samples = read_all(tmp_path, label="label", box="bbox", columns=columns)
    assert (index.count, index.problem) == (3, None)
    own = [
        dict(zip(columns, values, strict=True))
        for values in [(3, 1.5, True, "007", None), (None, 2.0, False, "12", None)]
    ]
    assert samples["a/1.jpg"] == Sample("a/1.jpg", photo(1), "barn owl, young", (1, 2, 30, 40), columns=own[0])
    assert samples["2.png"] == Sample("2.png", photo(2), "tit", columns=own[1])
    assert samples["unnamed.jpg"] == Sample("unnamed.jpg", photo(3), columns=dict.fromkeys(columns))
    # By default it is what it was: the sheet is not looked at.
    assert {key: sample.label for key, sample in read_all(tmp_path)[1].items()} == {
        "a/1.jpg": "a",
        "2.png": None,
        "unnamed.jpg": None,
    }
    both = read_all(tmp_path, label="species;folder;label")[1]
    assert [both[key].label for key in ("a/1.jpg", "2.png")] == ["a", "tit"]


def test_json_lines_with_values_of_their_own_types(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        put(tmp_path / name, photo(0))
    notes: list[dict[str, Any]] = [
        {"file_name": "1.jpg", "label": 5, "text": "wing", "at": {"site": "A"}, "bbox": [1, 2, 3, 4]},
        {"file_name": "2.jpg", "label": "five", "at": None, "text": None},
        {"file_name": "3.jpg", "label": True, "at": "nowhere"},
    ]
    lines = [*map(json.dumps, notes), "", "{", "[1]", '{"label": 7}']
    put(tmp_path / "metadata.jsonl", "\n".join(lines).encode())
    given = {"label": "label", "text": "text", "box": "bbox", "box_format": "xywh", "columns": ["at.site"]}
    index, samples = read_all(tmp_path, **given)
    assert index.problem == "metadata.jsonl: 2 lines are no JSON object: 5, 6"
    none = {"at.site": None}
    assert samples == {
        "1.jpg": Sample("1.jpg", photo(0), 5, (1, 2, 4, 6), text="wing", columns={"at.site": "A"}),
        "2.jpg": Sample("2.jpg", photo(0), "five", columns=none),
        "3.jpg": Sample("3.jpg", photo(0), "True", columns=none),
        "4.jpg": Sample("4.jpg", photo(0), columns=none),
    }


def test_the_nearest_sheet_counts_and_a_name_is_never_a_path(tmp_path: Path) -> None:
    root = tmp_path / "in"
    secret = put(tmp_path / "secret.jpg", photo(9))
    for name in ("train/a/1.jpg", "test/1.jpg", "1.jpg"):
        put(root / name, photo(1))
    put(root / "metadata.csv", b"file_name,x\n1.jpg,root\ntest/1.jpg,above\n")
    lines = [
        "file_name,x",
        "a\\1.jpg,train",
        "../test/1.jpg,other",
        "../../secret.jpg,no",
        f"{secret},no",
        "/etc/passwd,no",
    ]
    put(root / "train" / "metadata.csv", "\n".join(lines).encode())
    index, samples = read_all(root, columns=["x"])
    assert index.problem is None
    assert {key: sample.columns["x"] for key, sample in samples.items()} == {
        "1.jpg": "root",
        "test/1.jpg": "above",
        "train/a/1.jpg": "train",
    }
    (root / "train" / "metadata.csv").unlink()
    (root / "train" / "metadata.csv").symlink_to(put(tmp_path / "away.csv", b"file_name,x\na/1.jpg,away\n"))
    index, samples = read_all(root, columns=["x"])
    assert "train/metadata.csv: a link out of the folder" in (index.problem or "")
    assert samples["train/a/1.jpg"].columns == {"x": None}


@pytest.mark.parametrize(
    ("content", "lines", "problem"),
    [
        (b"", {}, "no line with a file_name; columns: none"),
        (b"name,x\na.jpg,1\n", {}, "no line with a file_name; columns: name, x"),
        (b"file_name;x\na.jpg;1,5\n", {"a.jpg": {"x": "1,5"}}, None),
        (b"x\tfile_name\r1\ta.jpg\r", {"a.jpg": {"x": "1"}}, None),
        (b' file_name , x\n"a ""b"".jpg","1\n2"\n', {'a "b".jpg': {"x": "1\n2"}}, None),
        (
            b"file_name,x,x\na.jpg,1,2\nb.jpg\nc.jpg,3,4,5\n",
            {"a.jpg": {"x": "2"}, "b.jpg": {}, "c.jpg": {"x": "4"}},
            None,
        ),
        (b"file_name,x\na.jpg,caf\xe9\n", {"a.jpg": {"x": "caf\\xe9"}}, None),
        (
            b"file_name,x\na.jpg,1\nb.jpg,2\na.jpg,1\n./b.jpg,3\n",
            {"a.jpg": {"x": "1"}, "b.jpg": {"x": "2"}},
            "1 files have other lines too, of which the first counts: b.jpg",
        ),
        (
            b'file_name,x\na.jpg,1\nb.jpg,"' + b"9" * 200_000,
            {"a.jpg": {"x": "1"}},
            "after 1 files: Error: field larger",
        ),
    ],
)
def test_odd_csv(content: bytes, lines: dict[str, dict[str, str]], problem: str | None) -> None:
    sheet = read_sheet("metadata.csv", content)
    assert sheet.lines == lines
    assert len(sheet.problems) == (problem is not None)
    assert (problem or "") in "".join(sheet.problems)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@given(lines=st.dictionaries(st.from_regex(r"[a-z]{1,3}\.jpg", fullmatch=True), st.tuples(TEXTS, TEXTS), max_size=4))
def test_what_csv_writes_is_read(lines: dict[str, tuple[str, str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("file_name", "x", "y"), *((name, *values) for name, values in lines.items())])
    found = read_sheet("a.csv", written.getvalue().encode()).lines
    assert found == {name: {c: v for c, v in zip("xy", values, strict=True) if v} for name, values in lines.items()}


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1", "2.5", "-.5", "3.", "1e3"], [1.0, 2.5, -0.5, 3.0, 1000.0]),
        (["1", "01"], ["1", "01"]),
        (["1.5", "12345678901234567890"], ["1.5", "12345678901234567890"]),
        (["true", "FALSE"], [True, False]),
        (["true", "1"], ["true", "1"]),
        (["nan", "1"], ["nan", "1"]),
        (["-", "1"], ["-", "1"]),
        (["\u0663", "1"], ["\u0663", "1"]),
    ],
)
def test_a_column_is_of_numbers_where_all_of_it_is(texts: list[str], values: list[Any]) -> None:
    rows = "".join(f"{i}.jpg,{text}\n" for i, text in enumerate(texts))
    sheets = Sheets({"": read_sheet("metadata.csv", f"file_name,x\n{rows}".encode())})
    found = [(sheets.typed(f"{i}.jpg", "x") or ("", None))[1] for i in range(len(texts))]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize("name", ["label", "text", "contrast_text", "box"])
def test_a_column_that_no_sheet_has_is_said_before_anything_is_read(tmp_path: Path, name: str) -> None:
    put(tmp_path / "1.jpg", photo(1))
    index, _ = read_all(tmp_path, **{name: "speices"})
    if name == "box":
        # As ever: other shards of the job may have boxes.
        assert index.problem is None
    else:
        assert index.problem == (
            f"{name}: no sheet of the images has a column speices; there is no metadata.csv or metadata.jsonl"
        )
    put(tmp_path / "metadata.csv", b"file_name,species\n1.jpg,owl\n")
    index, _ = read_all(tmp_path, **{name: "speices"})
    assert index.count == 0
    assert index.problem == f"{name}: no sheet of the images has a column speices; columns: species"


def test_a_sheet_of_other_files_is_a_problem(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg", photo(1))
    put(tmp_path / "metadata.csv", b"file_name,x\nimages/1.jpg,5\n")
    index, samples = read_all(tmp_path, columns=["x"])
    assert (
        index.problem
        == "metadata.csv has lines of other files only, as of 'images/1.jpg'; one of the images is '1.jpg'"
    )
    assert samples["1.jpg"].image == photo(1)


def test_another_line_is_a_change_of_the_shard_and_of_no_other_column(tmp_path: Path, job: Job) -> None:
    root = tmp_path / "in"
    put(root / "1.jpg", photo(1))
    sheet = put(root / "metadata.csv", b"file_name,n,m\n1.jpg,1,1\n")
    config = job(str(root), input={"columns": ["n"]})
    assert export(config).new == 1
    assert own(config) == ({"n": "int64"}, {"n": [1]})
    sheet.write_bytes(b"file_name,n,m\n1.jpg,1,2\n2.jpg,3,3\n")
    os.utime(sheet, (1, 1))
    assert export(config).new == 0
    sheet.write_bytes(b"file_name,n,m\n1.jpg,8,1\n")
    os.utime(sheet, (2, 2))
    with pytest.raises(ExportError, match="1 changed"):
        export(config)
    assert export(job(str(root), input={"columns": ["n"], "on_changed": "replace"})).new == 1
    assert own(config) == ({"n": "int64"}, {"n": [8]})


def test_labels_of_a_sheet_become_classes(tmp_path: Path, job: Job) -> None:
    for i in range(4):
        put(tmp_path / "in" / f"{i}.jpg", photo(i))
    put(tmp_path / "in" / "metadata.csv", b"file_name,species\n0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n")
    found = inspect_data(str(tmp_path / "in"))
    assert found.fields == {"label": "species"}
    assert (found.has("label"), found.classes, found.whole) == (3, ("cat", "dog"), True)
    names = ["cat", "dog", *(f"class {i}" for i in range(998))]
    config = job(str(tmp_path / "in"), input={"fields": found.fields}, model={"classes": names})
    export(config)
    assert open_export(config.output.url).images["label"].to_pylist() == [0, 1, 0, None]


def test_a_hundred_thousand_lines(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,species {i % 900},{i},{i / 7}" for i in range(100_000)]
    sheets = Sheets({"": read_sheet("metadata.csv", "\n".join(["file_name,species,n,x", *rows]).encode())})
    assert sheets.typed("99999.jpg", "n") == ("n", 99999)
    assert sheets.typed("7.jpg", "x") == ("x", 1.0)


def test_a_sheet_beside_images_is_no_shard(tmp_path: Path) -> None:
    put(tmp_path / "in" / "metadata.csv", b"file_name\n")
    put(tmp_path / "in" / "1.jpg", photo(1))
    assert find_shards([str(tmp_path / "in")]) == [ShardRef(str(tmp_path / "in"), "folder")]
