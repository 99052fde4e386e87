"""The command line: configs are judged before torch is loaded; places that cannot be written; signals; queries."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from finer_ray.__main__ import main
from finer_ray.cli import app
from finer_ray.config.schema import Config
from finer_ray.errors import InputError
from finer_ray.pipeline.export import export
from finer_ray.store.lease import current
from finer_ray.store.storage import Folder
from tests.conftest import sample, write_tar
from tests.store.exports import write_small_export

Job = Callable[..., Config]
ROOT = Path(__file__).parents[1]
# Commands, one after the other; of each, how it ended, what it said, and which libraries are loaded by then.
LOADED = """
import contextlib, io, json, runpy, sys
for command in json.loads(sys.argv[1]):
    sys.argv, said, code = command.split(), io.StringIO(), None
    with contextlib.redirect_stderr(said):
        try:
            if command.startswith("finer-ray"):
                from finer_ray.__main__ import main
                main()
            else:
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue(), [name for name in ("torch", "ray") if name in sys.modules]]))
"""
WITH_A_CONFIG = [
    "finer-ray export job.yaml",
    "finer-ray export job.yaml --dry-run",
    "finer-ray probe job.yaml",
    "finer-ray study aggregation job.yaml",
    "finer-ray study similarity job.yaml",
    "finer-ray study faithfulness job.yaml job.yaml --attributes a.json --word bird",
    f"{ROOT}/jobs/export_saliency.py --config job.yaml",
    "finer-ray export job.yaml --verify --date 2026-11-24",
    f"{ROOT}/jobs/train_probe.py --config job.yaml",
]


def test_a_wrong_config_is_refused_before_torch_and_ray_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("saliency: {gama: 1}\n")
    command = [sys.executable, "-c", LOADED, json.dumps(WITH_A_CONFIG)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    for name, line in zip(WITH_A_CONFIG, done.stdout.splitlines(), strict=True):
        code, said, loaded = json.loads(line)
        assert (code, loaded) == (2, []), name
        assert "the config is wrong" in said, name
        assert "Traceback" not in said, name


def test_help_is_broken_by_nobody_on_a_screen_of_80_columns() -> None:
    commands = [("finer-ray", typer.main.get_command(app))]
    for name, command in commands:
        commands += [(f"{name} {own}", found) for own, found in getattr(command, "commands", {}).items()]
        # Of the first paragraph lines are joined, of others they are kept.
        _, *paragraphs = (command.help or "").split("\n\n")
        assert [line for line in "\n".join(paragraphs).split("\n") if len(line) > 78] == [], name
    assert len(commands) > 20


@pytest.fixture
def made(tmp_path: Path) -> str:
    return str(write_small_export(tmp_path) / "demo_export")


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    """Exit code and message of a command; what is not foreseen comes out of it as it is."""
    monkeypatch.setattr(sys, "argv", ["finer-ray", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "/proc/none/x"])
@pytest.mark.parametrize(
    "command",
    [
        ["report", "{out}", "--images", "1", "--to", "{place}"],
        ["study", "gamma", "{out}", "--step", "2", "--to", "{place}"],
        ["show", "{out}", "--row", "1", "--to", "{place}.png"],
        ["init", "{in}", "--to", "{place}.yaml"],
        ["schema", "{place}"],
    ],
)
def test_a_place_that_cannot_be_written(
    command: list[str],
    place: str,
    made: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    words = [word.format(**{"out": made, "in": str(tmp_path / "in"), "place": place}) for word in command]
    code, said = run(monkeypatch, capsys, *words)
    assert code == 6
    assert said.startswith("error: cannot read or write ")
    assert said.count("\n") == 1
    assert Path("file").read_text() == "mine"


def test_an_export_below_a_file(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "in" / "a.tar", sample("a", 0))
    (tmp_path / "file").write_text("mine")
    config = job(str(tmp_path / "in"), output={"url": str(tmp_path / "file" / "out")})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    code, said = run(monkeypatch, capsys, "export", str(tmp_path / "job.yaml"))
    assert code == 6
    assert "Not a directory" in said


def test_a_range_of_gammas_that_is_none(made: str) -> None:
    done = CliRunner().invoke(app, ["study", "gamma", made, "--low", "3", "--high", "1"])
    assert done.exit_code == 2
    assert "--high 1 is below --low 3" in done.output


@pytest.mark.parametrize(
    "command",
    [
        ["status", "{url}"],
        ["query", "{url}"],
        ["report", "{url}"],
        ["init", "{url}"],
        ["pack", "--format", "cub", "--source", "{url}", "--to", "x"],
        ["pack", "--format", "cub", "--source", "x", "--to", "{url}"],
    ],
)
def test_a_secret_on_the_command_line_is_not_repeated(command: list[str]) -> None:
    done = CliRunner().invoke(app, [word.format(url="https://u:S3CR3T@host/x") for word in command])
    assert done.exit_code == 2
    assert "must not hold a password" in done.output
    assert "S3CR3T" not in done.output


def test_a_query_of_an_unfinished_export(tmp_path: Path, job: Job) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("bad.jpg", b"no photo"), *sample("good", 0)])
    config = job(str(tmp_path / "in"), input={"max_failures": 0.0})
    with pytest.raises(InputError):
        export(config)
    done = CliRunner().invoke(app, ["query", config.output.url, "SELECT key, stage FROM failures", "--format", "csv"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "key,stage\nbad,decode\n"
    assert "has not finished" in done.stderr
    looked = CliRunner().invoke(app, ["query", config.output.url])
    assert looked.exit_code == 0, looked.output


def test_a_query_of_a_finished_export_says_nothing_of_it(made: str) -> None:
    done = CliRunner().invoke(app, ["query", made, "SELECT count(*) AS n FROM images", "--format", "csv"])
    assert (done.stdout, done.stderr) == ("n\n12\n", "")


def test_control_characters_of_a_csv_are_escaped_and_numbers_are_not(made: str) -> None:
    sql = "SELECT 'a' || chr(27) || '[2J' || chr(155) || chr(10) || 'b' AS text, -1.5 AS x, -2 AS n, '=1+1' AS sum"
    done = CliRunner().invoke(app, ["query", made, sql, "--format", "csv"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "text,x,n,sum\na\\x1b[2J\\x9b\\nb,-1.5,-2,=1+1\n"


SLOW = """
import signal, sys
# A shell may have made the test's own process ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from finer_ray.__main__ import main
from tests.pipeline.exports import slow_down
slow_down()
main()
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "runner"),
    [(number, runner) for runner in ("inline", "ray") for number in (signal.SIGINT, signal.SIGTERM)],
)
def test_a_signal_ends_a_run_in_order(number: signal.Signals, runner: str, tmp_path: Path, job: Job) -> None:
    import psutil

    write_tar(tmp_path / "in" / "a.tar", [part for i in range(400) for part in sample(f"p{i:03d}", i % 7)])
    config = job(str(tmp_path / "in"), compute={"executor": runner, "threads_per_actor": 1})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-c", SLOW, "export", str(tmp_path / "job.yaml")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        parts = Path(config.output.url, "parts", "images")
        deadline = time.monotonic() + 200
        while process.poll() is None and not (parts.is_dir() and len(list(parts.iterdir())) > 1):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number
    kept = len(list(parts.iterdir())) * 8
    assert said.splitlines()[-1] == f"stopped; {kept} of 400 images kept; the same command goes on"
    assert "Traceback" not in said
    assert current(Folder(config.output.url)) is None
    assert psutil.wait_procs(family, timeout=30)[1] == []
