"""How much of a GPU do the engine and the whole job make use of? The whole measurement, in less than 8 minutes.

    python -m benchmarks.gpu                            # on a GPU: tables, and gpu.json beside this file
    python -m benchmarks.gpu --device cpu --quick       # the same code in miniature; its numbers mean nothing

First the lower bound: operations and bytes of an image. Then what the machine's parts can do, each alone. Then the
library's plain forward pass and the engine on the same batches, half precision against float32, the whole job, the
official script's loop, and a profile. A section that fails or runs out of its time is recorded as that, with what it
had found.
"""

import argparse
import gc
import json
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_sections.engine import profiled, rates_compiled, rates_of_models
from benchmarks.gpu_sections.goals import goals
from benchmarks.gpu_sections.hardware import hardware
from benchmarks.gpu_sections.job import job
from benchmarks.gpu_sections.lower_bound import lower_bound
from benchmarks.gpu_sections.precision import precision
from benchmarks.gpu_sections.script import script
from benchmarks.gpu_sections.setting import Modes, Record, Setting, quick, whole
from benchmarks.gpu_sections.tables import show
from finer_ray.pipeline.resources import cpu_count

PACKAGES = ("torch", "torchvision", "timm", "triton", "ray", "numpy", "pillow", "pyarrow", "zarr", "grad-cam")


# Seconds after which a section that has used up its own is stopped once more.
AGAIN = 10.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


class OutOfTime(BaseException):
    """A section has used up its seconds. No Exception, so that nothing on the way takes it for a fault of its own."""


def machine(setting: Setting, record: Record, found: Record) -> None:
    """What was measured on, and torch's policy of number formats as it came."""
    found["device"] = platform.processor() or platform.machine()
    if setting.cuda:
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {"device": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda}
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["driver"] = _driver()
    found["cores"], found["python"] = cpu_count(), platform.python_version()
    # What torch.compile needs, and where Ray keeps its objects.
    found["compiler"] = shutil.which("gcc") or shutil.which("cc")
    found["Python.h"] = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    found["free in shared memory"] = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else None
    found["tf32 as it came"] = {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    command = [tool or "", "--query-gpu=driver_version", "--format=csv,noheader"]
    return None if tool is None else subprocess.check_output(command, text=True).strip()


# Each with its seconds; together they are less than 8 minutes.
SECTIONS: dict[str, tuple[Callable[[Setting, Record, Record], None], float]] = {
    "machine": (machine, 10),
    "lower_bound": (lower_bound, 15),
    "hardware": (hardware, 55),
    "rates": (rates_of_models, 90),
    "job": (job, 155),
    "precision": (precision, 30),
    "script": (script, 20),
    "profile": (profiled, 20),
    "compiled": (rates_compiled, 75),
}


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in this context after so many seconds."""

    def ring(*_: Any) -> None:
        raise OutOfTime(f"after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, because there are places that swallow whatever is raised.
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(setting: Setting, wanted: list[str], out: Path | None, patience: float) -> Record:
    """Every section in turn; the file is written after each, so that a run that is cut off leaves what it had."""
    record: Record = {
        "result": setting.cuda and not setting.miniature,
        "models": list(setting.models),
        "faults": {},
        "seconds": {},
    }
    for name in wanted:
        section, seconds = SECTIONS[name]
        print(f"{name} ...", file=sys.stderr, flush=True)
        record[name], start = {}, time.perf_counter()
        try:
            with at_most(seconds * patience):
                section(setting, record, record[name])
        except (Exception, OutOfTime) as error:
            record["faults"][name] = f"{type(error).__name__}: {error}"[:2000]
        record["seconds"][name] = time.perf_counter() - start
        if setting.cuda:
            # The job's actor is another process, and asks how much memory is free.
            gc.collect()
            torch.cuda.empty_cache()
        record["goals"] = goals(record)
        if out is not None:
            out.write_text(json.dumps(_rounded(record), indent=1) + "\n")
    return record


def _rounded(value: Any) -> Any:
    """Five digits are more than any of this is known to."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny models and few images")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma")
    parser.add_argument(
        "--compile", default=None, help="modes of compute.compile, by comma: true, reduce-overhead, ..."
    )
    parser.add_argument("--executor", default="ray", choices=("ray", "inline"))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of the whole job")
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the sections' seconds")
    parser.add_argument("--out", type=Path, help="JSON file; on a GPU gpu.json beside this file unless told otherwise")
    return parser.parse_args()


def main() -> None:
    """Print the tables, write the JSON."""
    given = arguments()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; --device cpu --quick tries the code without one")
    modes = given.compile if given.compile is not None else ("" if given.quick else "true,reduce-overhead")
    compile_modes: Modes = tuple(True if mode == "true" else mode for mode in modes.split(",") if mode)
    out = given.out or (Path(__file__).with_suffix(".json") if given.device == "cuda" and not given.quick else None)
    if given.quick and given.device == "cpu":
        # Models this small lose more by waiting for each other's threads than they gain, above all on busy machines.
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        preset = quick if given.quick else whole
        device = torch.device("cuda", torch.cuda.current_device()) if given.device == "cuda" else torch.device("cpu")
        setting = preset(device, Path(folder), given.executor, compile_modes, tuple(given.set))
        show(measure(setting, given.only.split(","), out, given.patience))


if __name__ == "__main__":
    main()
