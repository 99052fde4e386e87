"""Whose lines a process prints: in processes of their own, because file descriptors are the process's."""

import subprocess
import sys
from pathlib import Path

import pytest

from finer_ray.library_log import log_file

SPEAKING = """
import logging, os, sys, warnings
from finer_ray.errors import InputError, ConfigError, exit_on_error
from finer_ray.library_log import error_output, libraries_apart
with exit_on_error(), libraries_apart(sys.argv[1]):
    print("ours", file=error_output())
    if "quiet" not in sys.argv:
        os.write(2, b"from C\\n")
        print("from Python", file=sys.stderr)
        logging.warning("from a logger")
        warnings.warn("a warning")
    if "fail" in sys.argv:
        raise InputError("no images")
    if "misconfigured" in sys.argv:
        raise ConfigError("no model")
print("after", file=sys.stderr)
"""


def spoken(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", SPEAKING, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_what_libraries_say_is_in_the_log(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert spoken(out) == (0, ["ours", "after"])
    said = (tmp_path / "out.log").read_text()
    assert said.startswith("from C\nfrom Python\nWARNING:root:from a logger\n")
    assert "UserWarning: a warning" in said
    spoken(out)
    assert (tmp_path / "out.log").read_text().count("from C") == 2
    assert (tmp_path / "out.log").stat().st_mode & 0o777 == 0o600


def test_a_failure_says_where_the_log_is(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    expected = ["ours", "error: no images", f"what Ray and other libraries said is in {out}.log"]
    assert spoken(out, "fail") == (3, expected)
    # The config's says all itself, and an old log is none of this run's.
    assert spoken(out, "misconfigured") == (2, ["ours", "error: no model"])
    assert spoken(out, "quiet", "fail") == (3, ["ours", "error: no images"])


def test_where_nothing_was_said_there_is_no_log(tmp_path: Path) -> None:
    assert spoken(str(tmp_path / "out"), "quiet") == (0, ["ours", "after"])
    assert not list(tmp_path.iterdir())


def test_the_log_of_a_place_that_has_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert log_file("s3://bucket/a/b") == tmp_path / "finer_ray" / "bucket_a_b.log"
    # Below a file no folder can be made.
    (tmp_path / "file").touch()
    assert spoken(str(tmp_path / "file" / "out")) == (0, ["ours", "after"])
    assert "from C" in (tmp_path / "finer_ray" / "out.log").read_text()
