"""Shard formats, backbone libraries, data sets: every entry of a table is known everywhere, and docs/extending.md's
examples work as they stand, in a file outside of the package."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.loading import load_config
from finer_ray.config.schema import ModelConfig
from finer_ray.datasets.catalogue import DATASETS
from finer_ray.datasets.writers import WRITERS
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier
from finer_ray.models.libraries import LIBRARIES
from finer_ray.shards import find_shards
from finer_ray.shards.find import SUFFIXES
from finer_ray.shards.formats import FORMATS
from finer_ray.store.reading import open_export
from tests.conftest import photo, sample, write_tar
from tests.pages import text_of

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "schemas" / "config.schema.json").read_text(encoding="utf-8"))["$defs"]
MAIN = "import sys; from finer_ray.__main__ import main; sys.argv[0] = 'finer-ray'; main()"


def rows_of(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of a table of a page, by the first of each row."""
    table = text_of(page).split(f"\n{heading}")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {first: rest for first, *rest in cells}


def test_every_format_is_known() -> None:
    [enum] = [kind["enum"] for kind in SCHEMA["InputConfig"]["properties"]["format"]["anyOf"] if "enum" in kind]
    assert enum == list(FORMATS)
    for name, format in FORMATS.items():
        assert all(SUFFIXES[suffix] == name for suffix in format.suffixes)
        said = SCHEMA["FieldsConfig"]["properties"]["label"]["description"]
        assert f"{name}: {format.fields.label}" in said
        assert set(format.other_fields) <= {"image", "label", "box", "mask"}
    parts = ("image", "label", "box", "mask")
    assert rows_of("docs/input.md", "| input.format") == {
        name: [format.description, *(f"`{at}`" if (at := getattr(format.fields, part)) else "" for part in parts)]
        for name, format in FORMATS.items()
    }


def test_every_library_is_known() -> None:
    backbone = SCHEMA["ModelConfig"]["properties"]["backbone"]
    with pytest.raises(ConfigError) as refused:
        build_classifier(ModelConfig(backbone="timm:coat_lite_mini", weights="random"))
    for name, library in LIBRARIES.items():
        assert library.usage in backbone["description"]
        assert re.fullmatch(backbone["pattern"], f"{name}:x")
        assert ModelConfig(backbone=f"{name}:x", weights="random").library is library
        assert library.supported in str(refused.value)
        assert f"{name}:" in text_of("docs/models.md")
    assert not re.fullmatch(backbone["pattern"], "none:x")


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_what_a_library_lacks_is_refused(library: object) -> None:
    [name] = [name for name, own in LIBRARIES.items() if own is library]
    text = {"backbone": f"{name}:x", "weights": "random", "head": "text", "classes": ["a", "b"]}
    if LIBRARIES[name].text_tower:
        ModelConfig.model_validate(text)
    else:
        with pytest.raises(ValueError, match="head: text needs a backbone with a text tower, of open_clip"):
            ModelConfig.model_validate(text)
        with pytest.raises(ValueError, match="concepts need a backbone with a text tower"):
            ModelConfig.model_validate({**text, "head": "native", "concepts": ["c"]})
    if not LIBRARIES[name].native_head:
        with pytest.raises(ConfigError, match=f"{name} backbones have no native classifier"):
            build_classifier(ModelConfig(backbone=f"{name}:x", weights="random"))


def test_every_data_set_is_known() -> None:
    said = " ".join(CliRunner().invoke(app, ["pack", "--help"], env={"COLUMNS": "400"}).output.split())
    assert ", ".join(DATASETS) in said
    assert " or ".join(WRITERS) in said
    for name, dataset in DATASETS.items():
        for choices in (dataset.labels, dataset.tasks):
            assert len(choices) < 2 or f"{name}: {', '.join(choices)}" in said
    assert rows_of("docs/datasets.md", "| format |") == {
        name: [dataset.description] for name, dataset in DATASETS.items()
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The examples as files."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name in ("my_format", "my_library", "my_dataset"):
        [block] = re.findall(rf"^```python\n(# {name}\.py\n.*?)^```", text, re.DOTALL | re.MULTILINE)
        (tmp_path / f"{name}.py").write_text(block)
    return tmp_path


def python(folder: Path, *words: str) -> str:
    """What a new Python says that knows all three examples."""
    known = {"FINER_RAY_PLUGINS": "my_format, my_library,my_dataset", "PYTHONPATH": f"{folder}:{ROOT}"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={**environment, **known}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_format_a_library_and_a_data_set_of_ones_own(written: Path) -> None:
    with zipfile.ZipFile(written / "a.zip", "w") as archive:
        for number in range(5):
            archive.writestr(f"{'cat' if number % 2 else 'dog'}/{number}.jpg", photo(number))
        archive.writestr("cat/bad.jpg", b"no photo")
        archive.writestr("notes.txt", b"x")
    said = python(written, "-c", MAIN, "init", "a.zip", "--to", "job.yaml", "--output", "out")
    assert "finer-ray export job.yaml" in said
    text = (written / "job.yaml").read_text()
    assert "1 shard (zip); the first holds 6 images" in text
    tree = yaml.safe_load(text)
    tree["input"] |= {"format": "zip"}
    tree["model"] = {"backbone": "plain:16", "weights": "random"}
    (written / "job.yaml").write_text(yaml.safe_dump(tree | {"compute": {"executor": "inline"}}))
    assert "5 images explained, 1 failures" in python(written, "-c", MAIN, "export", "job.yaml")
    made = open_export(str(written / "out"))
    assert made.images["key"].to_pylist() == [f"{'cat' if n % 2 else 'dog'}/{n}.jpg" for n in range(5)]
    assert made.maps([0], "finer_gradcam").shape == (1, 8, 8)
    assert "whole: 5 images, 1 failures" in python(written, "-c", MAIN, "verify", "out")


def test_a_plugin_that_cannot_be_imported_is_said_plainly() -> None:
    command = [sys.executable, "-m", "finer_ray", "--version"]
    environment = {**os.environ, "FINER_RAY_PLUGINS": "no_such_module"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: FINER_RAY_PLUGINS: no_such_module cannot be imported: ModuleNotFoundError")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_data_set_of_ones_own_is_packed(written: Path) -> None:
    (written / "photos" / "deep").mkdir(parents=True)
    lines = ["path,label"]
    for number in range(3):
        (written / "photos" / "deep" / f"{number}.jpg").write_bytes(photo(number))
        lines.append(f"deep/{number}.jpg,{'cat' if number % 2 else 'dog'}")
    (written / "photos" / "labels.csv").write_text("\n".join([*lines, "../out.jpg,cat", "none.jpg,cat"]))
    said = python(written, "-c", MAIN, "pack", "--format", "csv", "--source", "photos", "--to", "shards")
    assert "all: 3 images in 1 shards" in said
    assert "1 refused" in said
    assert "1 missing" in said
    assert (written / "shards" / "classes.txt").read_text() == "cat\ndog\n"
    [shard] = find_shards([str(written / "shards")])
    assert Path(shard.url).name == "all-000000.tar"


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_plugin_is_known_whether_it_is_imported_before_the_tables_or_after(first: bool, written: Path) -> None:
    plugins = "import my_format, my_library, my_dataset"
    tables = (
        "from finer_ray.shards.formats import FORMATS; from finer_ray.models.libraries import LIBRARIES; "
        "from finer_ray.datasets.catalogue import DATASETS"
    )
    order = (plugins, tables) if first else (tables, plugins)
    said = python(
        written, "-c", "; ".join((*order, "print('zip' in FORMATS, 'plain' in LIBRARIES, 'csv' in DATASETS)"))
    )
    assert said == "True True True\n"


def test_without_the_plugins_their_names_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sample("a", 0))
    tree = {"input": {"shards": "a.tar"}, "model": {"backbone": "timm:x", "weights": "random"}, "output": {"url": "o"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    load_config(tmp_path / "job.yaml")
    with pytest.raises(ConfigError, match="'webdataset', 'parquet' or 'folder', got 'zip'"):
        load_config(tmp_path / "job.yaml", ["input.format=zip"])
    with pytest.raises(ConfigError, match=r"model\.backbone: .*timm\|open_clip"):
        load_config(tmp_path / "job.yaml", ["model.backbone=plain:16"])
