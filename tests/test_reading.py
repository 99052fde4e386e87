"""What reads an export imports nothing that only jobs need, and a laptop installs none of it."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from finer_ray.errors import OF_A_JOB
from tests.store.exports import write_small_export

ROOT = Path(__file__).parents[1]
# Runs commands, one by one, in a process in which modules of jobs cannot be found.
ALONE = f"""
import json, shlex, sys, traceback

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OF_A_JOB!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
codes = {{}}
for command in json.loads(sys.argv[1]):
    sys.argv = ["finer-ray", *shlex.split(command)]
    from finer_ray.__main__ import main
    try:
        main()
    except SystemExit as end:
        codes[command] = end.code
    except BaseException:
        codes[command] = traceback.format_exc()
print(json.dumps(codes))
"""
COMMANDS = (
    "--help",
    "export --help",
    "status demo_export",
    "verify demo_export",
    "table demo_export",
    "query demo_export",
    "query demo_export 'SELECT * FROM images'",
    "pairs demo_export",
    "similar demo_export --row 1 --count 3 --picture similar.png",
    "embeddings demo_export --to vectors",
    "traits demo_export",
    "show demo_export --row 1 --gamma 2",
    "figure demo_export --row 1 --to figure.svg",
    "report demo_export --images 2 --classes 1",
    "report demo_export --where 'row < 2' --single-file --to one.html",
    "to labelstudio demo_export --where 'row < 2'",
    "compare demo_export demo_export --fail-over 0",
    "study gamma demo_export",
    "study failure-cases demo_export --shown 1",
    "init in --to new.yaml",
    "schema",
)
# With the exit codes, and with what is said.
REFUSED = {
    "export wrong.yaml": (2, "the config is wrong"),
    "export wrong.yaml --dry-run": (2, "the config is wrong"),
    "export job.yaml --dry-run --set input.shards=nowhere": (3, "input.shards: there is no 'nowhere'"),
    "export job.yaml --dry-run --set output.url=in": (4, "in holds other files (a.tar, b.tar)"),
}
JOBS = ("export job.yaml", "export job.yaml --dry-run", "fetch job.yaml")
HINT = 'is not installed, which jobs need and reading an export does not: pip install "finer_ray[job]"'
PYTHON = """
import numpy as np
import finer_ray

made = finer_ray.open_export("demo_export")
made.maps([0], "gradcam", place="photo"), made.maps([0], "gradcam", (64, 64)), made.patches([0]), made.embedding([0])
for values in (made.contrast([0], 2.0, weighting="probability", size=(64, 64)), made.basis([0])):
    assert isinstance(values, np.ndarray)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small export and two jobs, of which one is wrong."""
    root = write_small_export(tmp_path_factory.mktemp("reading"))
    (root / "wrong.yaml").write_text("input: {shards: in}\nmodle: {}\n")
    (root / "job.yaml").write_text(
        "input: {shards: in}\nmodel: {backbone: timm:test_vit, weights: random}\noutput: {url: out}\n"
    )
    return root


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, env={"PYTHONPATH": str(ROOT)}
    )


def test_commands_that_read_need_nothing_of_a_job(folder: Path) -> None:
    expected = {**dict.fromkeys(COMMANDS, 0), **{words: code for words, (code, _) in REFUSED.items()}}
    expected |= dict.fromkeys(JOBS, 2)
    done = run(folder, ALONE, json.dumps([*expected]))
    assert done.stdout, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    said = re.findall(r"^error: (.*)", done.stderr, re.MULTILINE)
    wanted = [*(reason for _, reason in REFUSED.values()), *[HINT] * len(JOBS)]
    assert [reason in line for line, reason in zip(said, wanted, strict=True)] == [True] * len(wanted), said


def test_python_that_reads_needs_nothing_of_a_job(folder: Path) -> None:
    found = f"import sys\nfor name in {OF_A_JOB!r}: sys.modules[name] = None\n{PYTHON}"
    done = run(folder, found)
    assert done.returncode == 0, done.stderr


def test_a_laptop_installs_nothing_of_a_job() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = re.compile(r"[\w-]+")
    of_a_job = {name.match(line)[0] for line in project["optional-dependencies"]["job"]}  # type: ignore[index]
    assert not of_a_job & {name.match(line)[0] for line in project["dependencies"]}  # type: ignore[index]
    known = packages_distributions()
    assert of_a_job == {next(iter(known[module])) for module in OF_A_JOB}
