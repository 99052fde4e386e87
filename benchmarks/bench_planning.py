"""How long does planning take, and how much memory, when there are very many shards? And what does a unit ask of S3?

1. 100,000 real tars of two images on a local disk: found, counted, planned, and planned again when nothing is new.
2. The plan of 10^9 images in 100,000 shards, as counting would leave it: units, what is left, plan.json there and
   back. Nothing of it grows but with shards and units.
3. Requests to an S3-compatible server: of finding and counting a shard, of a unit, of publishing.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config
from finer_ray.models import build_classifier
from finer_ray.pipeline.executor import InlineExecutor, RayExecutor
from finer_ray.pipeline.export import export
from finer_ray.pipeline.planning import draft, make_plan, units_left
from finer_ray.shards import ShardIndex, ShardRef
from finer_ray.store.manifest import PLAN, Manifest, ManifestFile, ShardEntry, read_manifest
from finer_ray.store.storage import Folder
from tests.conftest import sample, write_tar
from tests.s3 import served

SHARDS = int(os.environ.get("SHARDS", "100000"))
IMAGES, PER_UNIT = 10**9, 4096


def config_of(shards: str, out: str, **compute: Any) -> Config:
    """A job with a tiny model."""
    return parse_config(
        {
            "input": {"shards": shards},
            "model": {"backbone": "timm:test_vit", "weights": "random"},
            "output": {"url": out, "rows_per_unit": 8, "rows_per_chunk": 8},
            "compute": compute,
        }
    )


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """A result, with seconds and this process's largest resident memory so far, in MiB."""
    start = time.perf_counter()
    result = action()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result, {"seconds": time.perf_counter() - start, "peak_mib": peak}


def real_shards(folder: Path) -> dict[str, Any]:
    """Finding and counting real files."""
    body = write_tar(folder / "one.tar", [m for i in range(2) for m in sample(f"k{i}", i)]).read_bytes()
    (folder / "in").mkdir()
    for number in range(SHARDS):
        (folder / "in" / f"{number:06d}.tar").write_bytes(body)
    config = config_of(str(folder / "in" / f"{{000000..{SHARDS - 1:06d}}}.tar"), str(folder / "out"))
    empty, target = draft(config, build_classifier(config.model)), Folder(config.output.url)
    with RayExecutor() as executor:
        (plan, _), first = timed(lambda: make_plan(config, empty, None, None, target, executor.map))
    assert plan.images() == 2 * SHARDS
    with InlineExecutor() as executor:
        (again, _), second = timed(lambda: make_plan(config, empty, plan, None, target, executor.map))
    assert again.shards == plan.shards
    return {"shards": SHARDS, "first": first, "nothing new": second}


def large_plan(folder: Path) -> dict[str, Any]:
    """10^9 images in as many shards."""
    config = config_of("unused.tar", str(folder / "big"))
    empty = draft(config, build_classifier(config.model))
    layout = empty.layout.model_copy(update={"rows_per_unit": PER_UNIT, "rows_per_chunk": 32})
    per_shard = IMAGES // SHARDS
    per = -(-per_shard // PER_UNIT)

    def entry(number: int) -> ShardEntry:
        starts = tuple(place * PER_UNIT * 100_000 for place in range(per))
        ref = ShardRef(f"s3://bucket/data/{number:06d}.tar", "webdataset")
        index = ShardIndex(ref, per_shard, f"{number:064x}", starts)
        return ShardEntry(index=index.to_json(), stamp="size=1 ETag=x", first_unit=number * per)

    found: dict[str, Any] = {"images": IMAGES, "rows_per_unit": PER_UNIT}
    target = Folder(str(folder / "big"))
    entries, found["entries"] = timed(lambda: [entry(number) for number in range(SHARDS)])
    plan = empty.model_copy(update={"layout": layout, "shards": entries})
    _, found["plan.json written"] = timed(lambda: ManifestFile(target, PLAN).write(plan))
    found["plan.json bytes"] = (folder / "big" / PLAN).stat().st_size
    back, found["plan.json read"] = timed(lambda: read_manifest(target, PLAN))
    assert isinstance(back, Manifest)
    (left, _), found["units left"] = timed(lambda: units_left(back, None, target))
    found["units"] = len(left)
    assert sum(unit.count for unit in left) == IMAGES
    return found


def requests() -> dict[str, Any]:
    """Requests to S3 of runs with one and with three more units, and of finding shards."""
    counts: dict[str, Counter[str]] = {}
    with served() as server, tempfile.TemporaryDirectory() as place:
        asked: Counter[str] = Counter()
        answer = server._answer

        def count(environ: dict[str, Any], start: Any) -> Any:
            asked[environ["REQUEST_METHOD"]] += 1
            return answer(environ, start)

        server._server.app = count
        target = Folder("s3://bucket/in")
        for name, shards, each in (
            ("1 shard of 1 unit", 1, 8),
            ("1 shard of 4 units", 1, 32),
            ("4 shards of 1 unit", 4, 8),
        ):
            for number in range(shards):
                body = write_tar(
                    Path(place) / "x.tar", [m for i in range(each) for m in sample(f"k{i}", i)]
                ).read_bytes()
                target.write(f"{shards}-{each}/{number}.tar", body)
            asked.clear()
            export(
                config_of(f"s3://bucket/in/{shards}-{each}/*.tar", f"s3://bucket/{shards}-{each}", executor="inline")
            )
            counts[name] = Counter(asked)
    one, four = counts["1 shard of 1 unit"], counts["1 shard of 4 units"]
    shards4 = counts["4 shards of 1 unit"]
    return {
        **{name: dict(count) for name, count in counts.items()},
        "per unit": {method: (four[method] - one[method]) / 3 for method in one},
        "per shard": {method: (shards4[method] - four[method]) / 3 for method in one},
    }


def main() -> None:
    """Print the tables, write the JSON beside this file."""
    record: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as place:
        for name, part in (("plan", large_plan), ("shards", real_shards)):
            record[name] = part(Path(place))
            print(name, record[name], file=sys.stderr)
    record["requests"] = requests()
    for name, part in record.items():
        if isinstance(part, dict):
            table = Table("", "", title=name)
            for key, value in part.items():
                text = {k: round(v, 2) for k, v in value.items()} if isinstance(value, dict) else value
                table.add_row(key, str(text))
            Console().print(table)
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
