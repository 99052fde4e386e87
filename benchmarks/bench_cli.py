"""How long does a command take that reads an export? Beside `python -c "import numpy, pyarrow, duckdb"`.

An export of 12 photos, so that nearly all of it is the start of a process. Commands and that yardstick take turns; the
ratio is of one turn's processor time to the yardstick's of the same turn, which other work on the machine changes less
than it does the time on the clock. Two more imports stand for what drawing (matplotlib) and clusters (scikit-learn)
cannot do without. pandas, which pyarrow imports at the first array where it is installed, is hidden: the package does
not install it.
"""

import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.store.exports import write_small_export

ROUNDS = 3
HIDING = "hiding"
YARDSTICK = "import numpy, pyarrow, duckdb"
PYTHON = (
    YARDSTICK,
    f"{YARDSTICK}, matplotlib.figure",
    f"{YARDSTICK}, sklearn.cluster",
    "import finer_ray",
    "import finer_ray; finer_ray.open_export('demo_export').contrast([0], 1.0)",
)
COMMANDS = (
    "--help",
    "export wrong.yaml --dry-run",
    "init in --to new.yaml",
    "status demo_export",
    "verify demo_export",
    "query demo_export 'SELECT * FROM images'",
    "table demo_export",
    "pairs demo_export",
    "show demo_export --row 1",
    "traits demo_export",
    "study gamma demo_export",
    "study failure-cases demo_export",
    "report demo_export",
)


def run(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds that a Python process takes, on the clock and of the processors."""
    (folder / "new.yaml").unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder / HIDING, Path(__file__).parents[1])))}
    start, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, os.times()
    assert done.returncode == ("wrong.yaml" in arguments) * 2, done.stderr
    user, system = after.children_user - before.children_user, after.children_system - before.children_system
    return seconds, user + system


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Medians by what is run; the first turn is not counted."""
    runs = {code: ["-c", code] for code in PYTHON}
    runs |= {f"finer-ray {words}": ["-m", "finer_ray", *shlex.split(words)] for words in COMMANDS}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in track(range(ROUNDS + 1), "taking turns", transient=True):
        for name, arguments in runs.items():
            found = run(folder, arguments)
            if turn:
                times[name].append(found)
    return {name: summary(own, times[YARDSTICK]) for name, own in times.items()}


def summary(own: list[tuple[float, float]], yardstick: list[tuple[float, float]]) -> dict[str, float]:
    ratios = [mine / other for (_, mine), (_, other) in zip(own, yardstick, strict=True)]
    seconds, processors = (statistics.median(column) for column in zip(*own, strict=True))
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processors, 2),
        "ratio": round(statistics.median(ratios), 1),
    }


def show(found: dict[str, dict[str, float]]) -> None:
    table = Table(title=f"medians of {ROUNDS} turns", title_justify="left")
    for column in ("", "seconds", "processor s", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in found.items():
        table.add_row(name, *map(str, figures.values()))
    Console(width=120).print(table)


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="bench_cli_"))
    try:
        (write_small_export(root) / "wrong.yaml").write_text("modle: {}\n")
        (root / HIDING).mkdir()
        (root / HIDING / "pandas.py").write_text("raise ImportError\n")
        found = measure(root)
    finally:
        shutil.rmtree(root)
    show(found)
    record: dict[str, Any] = {"rounds": ROUNDS, "python": platform.python_version(), "medians": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
