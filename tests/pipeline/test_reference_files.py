"""References by class, within a taxon and by image: what files and samples say, what is wrong with them, and a job."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import ClassReferences, Config, Within
from finer_ray.errors import ConfigError, ExportError
from finer_ray.models import ClassNames
from finer_ray.pipeline.export import export
from finer_ray.pipeline.reference_files import references_by_class, taxa_by_class, with_references
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import photo, write_tar
from tests.pipeline.test_export import Job

NAMES = ("House Sparrow", "Tree Sparrow", "300", "Robin", "Robin ")
CLASSES = ClassNames(NAMES[:4], {"passer domesticus": 0})
SMALL = ClassNames.numbered(4)


def asked(**saliency: Any) -> Config:
    model = {"backbone": "timm:x", "weights": "random"}
    return parse_config({"input": {"shards": "a"}, "model": model, "output": {"url": "o"}, "saliency": saliency})


def by_class(path: Path, text: str, classes: ClassNames = CLASSES) -> list[list[int]]:
    path.write_text(text)
    config = with_references(asked(selection={"file": str(path)}), classes)
    assert isinstance(config.saliency.selection, ClassReferences)
    table: list[list[int]] = references_by_class(config.saliency.selection, classes).tolist()
    return table


def taxa(path: Path, text: str, classes: ClassNames = CLASSES, level: str = "genus") -> list[int]:
    path.write_text(text)
    config = with_references(asked(within={"file": str(path), "level": level}), classes)
    assert config.saliency.within is not None
    found: list[int] = taxa_by_class(config.saliency.within, classes).tolist()
    return found


def test_references_by_class_by_name_alias_and_index(tmp_path: Path) -> None:
    file = tmp_path / "refs.json"
    text = '{"House Sparrow": ["Tree Sparrow", 3], "300": ["passer domesticus"], "3": []}'
    # '300' is a class's name; '3' is none, and so an index.
    assert by_class(file, text) == [[1, 3], [-1, -1], [0, -1], [-1, -1]]
    assert by_class(file, '\ufeff{"0": [2, 1], "3": [0]}', SMALL) == [[2, 1], [-1, -1], [-1, -1], [0, -1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 10**5, "is not JSON"),
        ("[1]", r"must be a JSON object, \{class: \[classes"),
        ("{}", "must be a JSON object"),
        ('{"Robin": "300"}', r"of 'Robin', expected a list of names or indices, got '300'"),
        ('{"Robin": [true]}', "expected a list"),
        ('{"Robin": [1.5]}', "expected a list"),
        ('{"Robin": [0], "Robin": [1]}', "has the key 'Robin' twice"),
        ('{"Robin": [0], "3": [1]}', "the class '3' has two lists"),
        ('{"Robn": [0]}', r"no class is called 'Robn' \(nearest: Robin"),
        ('{"Robin": ["Tree Sparow"]}', r"of 'Robin': no class is called .*nearest: Tree Sparrow"),
        ('{"Robin": [4]}', "class 4 is out of range: there are 0 to 3"),
        ('{"Robin": [3]}', "compared with itself"),
        ('{"Robin": [1, "Tree Sparrow"]}', "with a class twice"),
        ('{"Robin": []}', "the longest list has 0 references"),
    ],
)
def test_what_is_no_file_of_references(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^saliency\.selection\.file: .*refs\.json'.*{message}"):
        by_class(tmp_path / "refs.json", text)


def test_taxa(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    text = (
        "name,family,genus\nHouse Sparrow,a,Passer\n Tree Sparrow ,a,Passer\nDodo,b,Raphus\n300,c,\nRobin,d,Erithacus\n"
    )
    assert taxa(file, text) == [0, 0, -1, 1]
    assert taxa(file, text.replace("House Sparrow", "passer domesticus").replace("\n300", "\n2")) == [0, 0, -1, 1]
    assert taxa(file, text, level="family") == [0, 0, 1, 2]
    assert taxa(tmp_path / "t.tsv", 'x\tgenus\n0\tA\n1\tA\n2\t"B, C"\n\n3\tB\n', SMALL) == [0, 0, 1, 2]
    # Two classes of one name are of one taxon.
    twins = ClassNames(NAMES)
    assert taxa(file, f"{text}Robin,d,Erithacus\n", twins) == [0, 0, -1, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,family\na,b\n", r"has no column 'genus' beside the first.*its columns: \['name', 'family'\]"),
        ("name,genuss\na,b\n", r"nearest: genuss"),
        ("genus\nx\n", "has no column 'genus' beside the first"),
        ("", "has no column 'genus'"),
        ("name,genus\nRobin,a\n300,a\n", r"no line for 2 of the model's 4 classes \('House Sparrow', 'Tree Sparrow'\)"),
        ("name,genus\nRobin,a\nRobin,b\n", "'Robin' is of two taxa, 'a' and 'b'"),
        ("name,genus\nHouse Sparrow,a\nTree Sparrow,b\n300,c\nRobin,\n", "no 'genus' has two classes"),
        ('name,genus\n"Robin\x00,a\n', r"line"),
    ],
)
def test_what_is_no_taxonomy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^saliency\.within\.file: .*t\.csv'.*{message}"):
        taxa(tmp_path / "t.csv", text)


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"selection\.file: .*ref\.json' is no file \(nearest: refs\.json"):
        with_references(asked(selection={"file": str(tmp_path / "ref.json")}), CLASSES)
    (tmp_path / "latin.csv").write_bytes(b"name,genus\nM\xf6we,a\n")
    with pytest.raises(ConfigError, match=r"within\.file: .*latin\.csv' cannot be read: .*utf-8"):
        with_references(asked(within={"file": str(tmp_path / "latin.csv"), "level": "genus"}), CLASSES)


def test_both_may_stand_in_the_config_itself() -> None:
    config = asked(selection={"classes": {0: ["300"], "Robin": [0, 1]}})
    assert with_references(config, CLASSES) is config
    assert isinstance(config.saliency.selection, ClassReferences)
    assert references_by_class(config.saliency.selection, CLASSES).tolist() == [[2, -1], [-1, -1], [-1, -1], [0, 1]]
    within = Within(level="genus", taxa={"Passer": [0, "Tree Sparrow"]})
    assert taxa_by_class(within, CLASSES).tolist() == [0, 0, -1, -1]
    with pytest.raises(ConfigError, match="'Robin' is of two taxa"):
        taxa_by_class(Within(level="x", taxa={"a": ["Robin", 0], "b": ["Robin"]}), CLASSES)


def test_the_fingerprint_is_of_the_content_not_of_its_place(tmp_path: Path) -> None:
    prints = []
    for name, other in (("a.json", 1), ("b.json", 1), ("c.json", 2)):
        (tmp_path / name).write_text(json.dumps({"Robin": [other]}))
        prints.append(with_references(asked(selection={"file": str(tmp_path / name)}), CLASSES).fingerprint())
    assert prints[0] == prints[1] != prints[2]
    text = "name,genus\nHouse Sparrow,a\nTree Sparrow,a\n300,b\nRobin,b\n"
    for name, content in (("a.csv", text), ("b.csv", f"{text}Dodo,c\n"), ("c.csv", text.replace("300,b", "300,a"))):
        (tmp_path / name).write_text(content)
        within = {"file": str(tmp_path / name), "level": "genus"}
        prints.append(with_references(asked(within=within), CLASSES).fingerprint())
    assert prints[3] == prints[4] != prints[5]
    assert len({asked().fingerprint(), *prints}) == 5


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        ({"selection": {}}, r"saliency\.selection: needs file"),
        ({"selection": {"fil": "x"}}, r"saliency\.selection\.fil: unknown key \(nearest: file\)"),
        ({"selection": "topp"}, r"saliency\.selection: .*'top', got 'topp' \(nearest: top"),
        ({"within": {"level": "genus"}}, r"saliency\.within: needs file"),
        ({"within": {"file": "x"}}, r"saliency\.within\.level: this key is needed"),
        ({"within": {"file": "x", "level": "g"}, "selection": [1]}, "within needs selection: logit, weight or top"),
        (
            {"selection": {"file": "x"}, "target": "concept", "concept": {"default": ["a", "b"]}},
            "need a target that is a class",
        ),
    ],
)
def test_wrong_sections(saliency: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(**saliency)


def shard(path: Path, references: list[Any]) -> Path:
    members = []
    for number, own in enumerate(references):
        note = {"label": number, "references": own}
        members += [(f"p{number}.jpg", photo(number)), (f"p{number}.json", json.dumps(note).encode())]
    return write_tar(path, members)


def test_a_job_by_class_and_within_a_taxon(tmp_path: Path, job: Job) -> None:
    tar = shard(tmp_path / "a.tar", [None] * 4)
    (tmp_path / "refs.json").write_text('{"0": [7, 8], "1": [9, 1000]}')
    saliency = {"target": "label", "selection": {"file": str(tmp_path / "refs.json")}}
    with pytest.raises(ConfigError, match=r"^saliency\.selection\.file: .*class 1000 is out of range"):
        export(job(str(tar), saliency=saliency))
    (tmp_path / "refs.json").write_text('{"0": [7, 8], "1": [9]}')
    config = job(str(tar), saliency=saliency)
    export(config)
    made = open_export(config.output.url)
    assert made.images["references"].to_pylist() == [[7, 8], [9, -1], [-1, -1], [-1, -1]]
    assert made.manifest.config["saliency"]["selection"]["classes"] == {"0": [7, 8], "1": [9]}
    assert verify_export(config.output.url) == []
    # A class without references has its baseline.
    plain, finer = (made.maps([2, 3], name) for name in ("gradcam", "finer_gradcam"))
    np.testing.assert_array_equal(plain, finer)
    # The same from another place is the same job; another content is none.
    (tmp_path / "moved.json").write_text('{"0": [7, 8], "1": [9]}')
    moved = {"target": "label", "selection": {"file": str(tmp_path / "moved.json")}}
    assert export(job(str(tar), saliency=moved)).new == 0
    (tmp_path / "moved.json").write_text('{"0": [7, 8], "1": [6]}')
    with pytest.raises(ExportError, match=r"saliency\.selection\.classes\.1 \[9\] there, \[6\] here"):
        export(job(str(tar), saliency=moved))
    lines = [f"{number},{'small' if number < 3 else 'large'}" for number in range(1000)]
    (tmp_path / "t.csv").write_text("\n".join(["class,size", *lines]))
    within = {"target": "label", "selection": "top", "within": {"file": str(tmp_path / "t.csv"), "level": "size"}}
    config = job(str(tar), saliency=within, output={"url": str(tmp_path / "taxa")})
    export(config)
    found = open_export(config.output.url).images["references"].to_pylist()
    assert [sorted(line) for line in found[:3]] == [[-1, 1, 2], [-1, 0, 2], [-1, 0, 1]]
    assert min(found[3]) > 2


def test_a_job_by_image(tmp_path: Path, job: Job) -> None:
    """Images without references are compared as all others; what names none right is a failure with its reason."""
    own: list[Any] = [[5, 6], None, "7; 8", [], [4, 5], [3000], [1, 2, 3, 9], [8, 8], {"a": 1}, "x", [0.5], "", [900]]
    own += [[-1, 77, -1, -1], [-1]]
    tar = shard(tmp_path / "a.tar", own)
    fields = {"fields": {"references": "json.references"}, "max_failures": 1.0}
    config = job(str(tar), input=fields, saliency={"target": "label"})
    export(config)
    made = open_export(config.output.url)
    assert verify_export(config.output.url) == []
    references = dict(zip(made.images["key"].to_pylist(), made.images["references"].to_pylist(), strict=True))
    usual_config = job(str(tar), saliency={"target": "label"}, output={"url": str(tmp_path / "usual")})
    export(usual_config)
    usual = open_export(usual_config.output.url).images
    before = dict(zip(usual["key"].to_pylist(), usual["references"].to_pylist(), strict=True))
    assert references == {
        "p0": [5, 6, -1],
        "p1": before["p1"],
        "p2": [7, 8, -1],
        "p3": before["p3"],
        # The target, class 4, is not compared with itself.
        "p4": [-1, 5, -1],
        "p11": before["p11"],
        "p12": [900, -1, -1],
        # As an export itself has references.
        "p13": [77, -1, -1],
        "p14": [-1, -1, -1],
    }
    reasons = {line["key"]: (line["stage"], line["error"]) for line in made.failures.to_pylist()}
    assert reasons["p5"] == ("references", "class 3000 is out of range: there are 0 to 999")
    assert reasons["p6"] == ("references", "the image names 4 references, and the job compares with 3 at most")
    assert reasons["p7"] == ("references", "the image names a reference twice")
    assert reasons["p8"][0] == "read"
    assert "json.references: references must be a list of classes, or text with ; between them" in reasons["p8"][1]
    assert reasons["p9"][0] == "references"
    assert "a label must be an integer or a class name, got 0.5" in reasons["p10"][1]
    assert len(reasons) == 6


def test_a_job_by_image_of_parquet(tmp_path: Path, job: Job) -> None:
    numbers = pa.array([[1, 2], None, [3]], pa.list_(pa.int32()))
    table = pa.table({"image": [photo(i) for i in range(3)], "refs": numbers, "text": ["9;10;11", "", None]})
    pq.write_table(table, tmp_path / "a.parquet")
    for column, expected in (("refs", [[1, 2, -1], None, [3, -1, -1]]), ("text", [[9, 10, 11], None, None])):
        fields = {"fields": {"references": column}}
        config = job(str(tmp_path / "a.parquet"), input=fields, output={"url": str(tmp_path / column)})
        export(config)
        found = open_export(config.output.url).images["references"].to_pylist()
        assert [line if want else None for line, want in zip(found, expected, strict=True)] == expected
        assert all(min(line) >= 0 for line, want in zip(found, expected, strict=True) if want is None)
