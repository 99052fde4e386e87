"""README.md and docs/ against what is there: blocks run, jobs are valid, commands parse, columns are described.

tests/test_readme_commands.py runs the commands, tests/test_links.py follows the links.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.loading import parse_config, parse_section
from finer_ray.metrics.table import AVERAGED
from finer_ray.plugins import VARIABLE
from finer_ray.probe.config import ProbesConfig
from finer_ray.schemas import TABLES
from finer_ray.store.layout import ARRAYS
from finer_ray.store.query import connect
from finer_ray.store.reading import Export, open_export
from tests.pages import ROOT, Command, blocks, commands, pages, text_of

OUTPUTS = text_of("docs/outputs.md")
# Parts of a job are held to the schema with these.
JOB = {"input": {"shards": "photos"}, "model": {"backbone": "timm:x", "weights": "random"}, "output": {"url": "out"}}
# Pages with Python: those of this module, and the plugins that tests/test_extending.py and _inputs.py run.
WITH_PYTHON = {"README.md", "docs/reading.md", "docs/outputs.md", "docs/extending.md"}


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 150


@pytest.fixture
def made(demo_like: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """`demo_export` in the working folder."""
    monkeypatch.chdir(demo_like)
    return open_export("demo_export")


def run(source: str) -> dict[str, Any]:
    """The names that a block of Python leaves."""
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102
    return names


def test_every_recipe_runs_and_they_agree(made: Export) -> None:
    rows = np.arange(4)
    found: dict[str, Callable[[dict[str, Any]], None]] = {
        "finer_ray": lambda names: np.testing.assert_array_equal(
            names["heat"], made.maps(rows, "finer_gradcam", size=(224, 224))
        ),
        "polars": lambda names: _worst(made, names["worst"]),
        "pandas": lambda names: _by_class(made, names["by_class"]),
        "xarray": lambda names: np.testing.assert_allclose(names["finer"], made.maps(rows, "finer_gradcam"), rtol=1e-6),
        "zarr": lambda names: np.testing.assert_allclose(names["contrast"], made.contrast(rows, 1.5), atol=1e-6),
    }
    recipes = blocks("docs/reading.md", "python")
    assert len(recipes) == len(found)
    for (library, check), recipe in zip(found.items(), recipes, strict=True):
        assert f"import {library}" in recipe
        check(run(recipe))


def test_the_readmes_lines_of_reading_run(made: Export, capsys: pytest.CaptureFixture[str]) -> None:
    [recipe] = blocks("README.md", "python")
    names, rows = run(recipe), np.arange(4)
    assert "p000" in capsys.readouterr().out
    np.testing.assert_array_equal(names["heat"], made.maps(rows, "finer_gradcam", size=(224, 224)))
    assert [heat.shape for heat in names["on_photo"]] == [(64, 80)] * 4
    np.testing.assert_array_equal(names["stronger"], made.contrast(rows, 1.5))
    np.testing.assert_array_equal(names["against_first"], made.contrast(rows, references=[0]))


def _worst(made: Any, worst: Any) -> None:
    metrics = [line for line in made.metrics.to_pylist() if line["map"] == "finer_gradcam"]
    known = sorted(line["localisation"] for line in metrics if line["localisation"] is not None)
    assert worst["localisation"].to_list() == known[:5]


def _by_class(made: Any, by_class: Any) -> None:
    means = {(line["class"], line["map"]): line["localisation_mean"] for line in made.classes.to_pylist()}
    for (of, name), mean in means.items():
        assert by_class.loc[of, name] == pytest.approx(mean, abs=1e-6)


def test_python_stands_only_where_it_is_run() -> None:
    assert {page for page in pages() if blocks(page, "python")} == WITH_PYTHON


def test_every_sql_block_runs(made: Export) -> None:
    [recipe] = blocks("docs/reading.md", "sql")
    assert len(duckdb.sql(recipe).fetchall()) == 8
    for page in sorted({page for page in pages() if blocks(page, "sql")} - {"docs/reading.md"}):
        for sql in blocks(page, "sql"):
            with connect(made) as connection:
                assert connection.sql(sql).columns, page
    [listed] = blocks("docs/outputs.md", "python")
    assert run(listed)["metrics"].count("row").fetchall() == [(24,)]


def test_every_yaml_block_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job, or as part of one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    for name in ("birds.txt", "birds/classes.json", "birds/concepts.json"):
        (tmp_path / name).write_text('["northern cardinal"]' if name.endswith("json") else "northern cardinal\n")
    found = [(page, block) for page in pages() for block in blocks(page, "yaml")]
    assert len(found) > 10
    for _, block in found:
        tree = yaml.safe_load(block)
        if "backbones" in tree:
            parse_section(ProbesConfig, tree)
        else:
            parse_config({name: {**JOB.get(name, {}), **tree.get(name, {})} for name in {**JOB, **tree}})


# The options of a plugin are known where it is: tests/test_extending.py runs those lines.
KNOWN = [found for page in pages() for found in commands(page) if VARIABLE not in dict(found.environment)]


@pytest.mark.parametrize("command", KNOWN, ids=lambda found: " ".join(found.arguments))
def test_every_command_is_known(command: Command) -> None:
    group: Any = get_command(app)
    arguments = list(command.arguments)
    while hasattr(group, "commands"):
        group = group.commands[arguments.pop(0)]
    # Raises where an option is unknown, or an argument is missing, surplus or malformed.
    group.make_context("finer-ray", arguments)


def test_schema_writes_the_schemas(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["schema", str(tmp_path)]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (ROOT / "schemas").iterdir()}


def test_help_is_one_line_for_each_command_under_a_heading() -> None:
    group: Any = get_command(app)
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    for name, command in group.commands.items():
        assert command.rich_help_panel, name
        [line] = [line for line in said.splitlines() if re.match(rf"│ {name} ", line)]
        # The line ends where its sentence does: nothing was broken or cut.
        assert line.rstrip("│ ").endswith("."), line


def test_the_shell_completes_commands() -> None:
    script = "from finer_ray.__main__ import main; import sys; sys.argv[0] = 'finer-ray'; main()"
    asked = {"_FINER_RAY_COMPLETE": "complete_bash", "COMP_WORDS": "finer-ray ", "COMP_CWORD": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
    )
    group: Any = get_command(app)
    assert set(run.stdout.split()) >= set(group.commands)


def rows_of(heading: str) -> list[list[str]]:
    """The first table below a heading of docs/outputs.md, without its head."""
    text = OUTPUTS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = re.search(r"(^\|.*\n)+", text, re.MULTILINE)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.group().splitlines()[2:]]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_column_is_described(name: str) -> None:
    said = [(cells[0], cells[1].strip("`"), cells[2]) for cells in rows_of(name)]
    fields = (
        [field for field in TABLES[name] if not field.name.startswith(tuple(AVERAGED))]
        if name in ("classes", "compare")
        else TABLES[name]
    )
    assert said == [(field.name, str(field.type), "yes" if field.nullable else "no") for field in fields]
    assert all(cells[3] for cells in rows_of(name))
    if name == "classes":
        assert all(metric in OUTPUTS.split("\n## classes\n")[1].split("\n## ")[0] for metric in AVERAGED)


def test_every_array_is_described() -> None:
    said = {name: (axes, dtype, fill) for name, axes, dtype, fill, _ in rows_of("saliency.zarr")}
    assert said == {
        name: (", ".join(("row", *array.axes)), array.dtype, "NaN" if array.fill != array.fill else str(array.fill))
        for name, array in ARRAYS.items()
    }
