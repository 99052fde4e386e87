"""`finer-ray export` on Ray, as a process: its lines are ours alone; Ray is started ahead where it is needed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import sample, write_tar

pytestmark = pytest.mark.slow
JOB = """
input: {{shards: {folder}/*.tar}}
model: {{backbone: timm:test_resnet, weights: random, image_size: 64}}
output: {{url: {folder}/out, rows_per_unit: 4, rows_per_chunk: 4}}
"""
BEGUN = [
    "loading libraries",
    "loading the model",
    "counting the images",
    "starting Ray",
    "loading the model where it explains",
]
COUNTED = re.compile(r"\d/8 images, \d+\.\d images/s, \d+ s left, \d failed")


def exported(folder: Path, *arguments: str) -> tuple[int, list[str], list[str]]:
    """A process's exit code and the lines of its two outputs."""
    (folder / "job.yaml").write_text(JOB.format(folder=folder))
    command = [sys.executable, "-m", "finer_ray", "export", str(folder / "job.yaml"), *arguments]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    environment.pop("RAY_USAGE_STATS_ENABLED", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_all_lines_of_a_run_are_ours(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [part for i in range(8) for part in sample(f"{i}", i, i)])
    code, said, told = exported(tmp_path)
    assert code == 0
    assert len(said) == 1
    assert said[0].startswith("8 images explained, 0 failures, 8 of them in this run")
    assert told[:5] == BEGUN
    assert told[5:]
    assert all(COUNTED.fullmatch(line) or line.startswith("compute.precision: auto") for line in told[5:])
    # Of a finished export nothing is left to do, for which Ray is not started.
    code, said, told = exported(tmp_path)
    assert (code, told[:3]) == (0, BEGUN[:3])
    assert said[0].startswith("8 images explained, 0 failures, 0 of them in this run")
    assert not [line for line in told if "Ray" in line]


def test_all_lines_of_a_failing_run_are_ours(tmp_path: Path) -> None:
    members = [part for i in range(4) for part in sample(f"{i}", i, i)]
    write_tar(tmp_path / "a.tar", [*members, *((f"bad{i}.jpg", b"no picture") for i in range(4))])
    code, said, told = exported(tmp_path, "--set", "input.max_failures=0.1")
    assert (code, said) == (3, [])
    assert told[:5] == BEGUN
    rest = [line for line in told[5:] if not COUNTED.fullmatch(line)]
    assert rest[0].startswith("error: ")
    # What Ray has said of its actors, and says of no fault.
    assert rest[1:] in ([], [f"what Ray and other libraries said is in {tmp_path}/out.log"])
