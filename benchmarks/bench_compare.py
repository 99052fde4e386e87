"""How long does `finer-ray compare` take, and how much memory? 20,000 made-up images, four maps of 14 x 14 cells.

The export is that of benchmarks/bench_report.py, compared with itself by the command, in a process of its own.

`IMAGES=20000 python -m benchmarks.bench_compare`    prints, and writes benchmarks/bench_compare.json
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench_report import IMAGES_MADE, write_export


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = write_export(Path(folder))
        before = time.perf_counter()
        command = [sys.executable, "-m", "finer_ray", "compare", url, url, "--to", f"{folder}/compare"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - before
        size = sum(path.stat().st_size for path in (Path(folder) / "compare").glob("*.parquet"))
        # Of all children: `compare` is the only one.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    record = {"cores": os.cpu_count(), "images": IMAGES_MADE, "seconds": seconds, "largest_mib": peak, "bytes": size}
    print(record)
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
