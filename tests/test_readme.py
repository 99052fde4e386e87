"""README.md and docs/outputs.md against what is there: blocks run, commands parse, columns are described.

tests/test_readme_commands.py runs the commands.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.metrics.table import AVERAGED
from finer_ray.store.layout import ARRAYS
from finer_ray.store.reading import open_export
from finer_ray.store.tables import SCHEMAS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OUTPUTS = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """A section of the README, up to the next of its rank."""
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Arguments of every line of the README that runs finer-ray."""
    lines = re.findall(r"^ {4}\.venv/bin/finer-ray (.*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_every_recipe_runs_and_they_agree(demo_like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_like)
    made = open_export("demo_export")
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
    recipes = blocks(section("Reading an export"), "python")
    assert len(recipes) == len(found)
    for (library, check), recipe in zip(found.items(), recipes, strict=True):
        assert f"import {library}" in recipe
        names: dict[str, Any] = {}
        exec(recipe, names)  # noqa: S102
        check(names)


def _worst(made: Any, worst: Any) -> None:
    metrics = [line for line in made.metrics.to_pylist() if line["map"] == "finer_gradcam"]
    known = sorted(line["localisation"] for line in metrics if line["localisation"] is not None)
    assert worst["localisation"].to_list() == known[:5]


def _by_class(made: Any, by_class: Any) -> None:
    means = {(line["class"], line["map"]): line["localisation_mean"] for line in made.classes.to_pylist()}
    for (of, name), mean in means.items():
        assert by_class.loc[of, name] == pytest.approx(mean, abs=1e-6)


def test_every_sql_block_runs(demo_like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_like)
    queries = blocks(README, "sql")
    assert queries
    for sql in queries:
        assert len(duckdb.sql(sql).fetchall()) == 8
    [listed] = blocks(OUTPUTS, "python")
    names: dict[str, Any] = {}
    exec(listed, names)  # noqa: S102
    assert names["metrics"].count("row").fetchall() == [(24,)]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_known(arguments: list[str]) -> None:
    command: Any = get_command(app)
    arguments = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    # Raises where an option is unknown, or an argument is missing, surplus or malformed.
    command.make_context("finer-ray", arguments)


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


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_column_is_described(name: str) -> None:
    said = [(cells[0], cells[1].strip("`"), cells[2]) for cells in rows_of(name)]
    fields = (
        [field for field in SCHEMAS[name] if not field.name.startswith(tuple(AVERAGED))]
        if name == "classes"
        else SCHEMAS[name]
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
