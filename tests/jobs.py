"""Running a file of jobs/ in this process: starting Python with torch and Ray each time would take minutes."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock


@dataclass(frozen=True)
class Done:
    """What a process would leave."""

    returncode: int
    stdout: str
    stderr: str


def run(job: Path, *arguments: str) -> Done:
    """Run it as if by `python JOB ARGUMENTS`."""
    said, complained = io.StringIO(), io.StringIO()
    code: object = 0
    with redirect_stdout(said), redirect_stderr(complained), mock.patch.object(sys, "argv", [str(job), *arguments]):
        try:
            runpy.run_path(str(job), run_name="__main__")
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Done(code, said.getvalue(), complained.getvalue())
