"""Executors: the same calls and the same stages, in this process and on Ray."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from ray import cloudpickle

from finer_ray.config.schema import Config
from finer_ray.errors import InputError
from finer_ray.models import build_classifier
from finer_ray.pipeline import executor as module
from finer_ray.pipeline.executor import Executor, InlineExecutor, RayExecutor
from finer_ray.pipeline.planning import layout_of
from finer_ray.pipeline.stage import Stage
from finer_ray.pipeline.stages import export_stages
from finer_ray.store.manifest import Unit

NUMBERS = pa.schema([pa.field("unit", pa.int64()), pa.field("number", pa.int64())])
UNITS = [Unit(number, f"{number}.tar", "webdataset", 0, 0, 3) for number in range(5)]


@pytest.fixture(params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Both forms."""
    if request.param == "inline":
        return InlineExecutor()
    request.getfixturevalue("ray_cluster")
    return RayExecutor()


def three(unit: Unit) -> pa.Table:
    return pa.table([[unit.number] * 3, [10 * unit.number + place for place in range(3)]], NUMBERS)


def total(offset: int, table: pa.Table) -> pa.Table:
    return pa.table([[table["unit"][0].as_py()], [offset + sum(table["number"].to_pylist())]], NUMBERS)


def odd(number: int) -> int:
    if number % 2 == 0:
        raise InputError(f"{number} is even")
    return number


def stages(offset: Any) -> list[Stage]:
    return [
        Stage("load", lambda: three, None, NUMBERS, 3),
        Stage("keep", lambda: lambda table: table, NUMBERS, NUMBERS, 3, keeps=True),
        Stage("add", lambda: partial(total, offset.get()), NUMBERS, NUMBERS, 1, cpus=0.0),
    ]


def test_units_go_through_all_stages(executor: Executor) -> None:
    with executor:
        lines = list(executor.run(UNITS, stages(executor.share(100))))
    assert sorted(line["unit"] for line in lines) == [0, 1, 2, 3, 4]
    assert all(line["number"] == 103 + 30 * line["unit"] for line in lines)


def test_calls_come_back_in_order_and_errors_as_they_are(executor: Executor) -> None:
    with executor:
        assert list(executor.map(odd, range(1, 80, 2), max_local=0)) == list(range(1, 80, 2))
        found = executor.map(odd, [1, 3, 4, 5], max_local=0)
        assert (next(found), next(found)) == (1, 3)
        with pytest.raises(InputError, match=r"^4 is even$") as caught:
            next(found)
        assert type(caught.value) is InputError


def test_an_error_of_a_stage_ends_the_run_as_it_is(executor: Executor) -> None:
    def fail(table: pa.Table) -> pa.Table:
        raise InputError("no such thing")

    with executor, pytest.raises(InputError, match=r"^no such thing$"):
        list(executor.run(UNITS, [*stages(executor.share(1))[:2], Stage("fail", lambda: fail, NUMBERS, NUMBERS, 3)]))


def test_few_calls_start_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "connected", lambda: pytest.fail("a cluster was started"))
    with RayExecutor() as executor:
        assert list(executor.map(odd, [1] * module.MAX_LOCAL_CALLS)) == [1] * module.MAX_LOCAL_CALLS


def test_tables_are_checked_at_each_stages_door() -> None:
    number, text = (pa.schema([pa.field("unit", kind)]) for kind in (pa.int64(), pa.string()))
    stage = Stage("explain", lambda: lambda table: table, number, text, rows=1)
    with pytest.raises(TypeError, match="stage explain takes"):
        stage.checked(stage.build(), pa.table([["a"]], text))
    with pytest.raises(TypeError, match="stage explain gives"):
        stage.checked(stage.build(), pa.table([[1]], number))


def test_processes_that_load_and_write_import_no_torch(job: Callable[..., Config]) -> None:
    """To import it takes seconds of a CPU, in each of them."""
    config = job("a.tar")
    classifier = build_classifier(config.model)
    load, _, write = export_stages(config, classifier, layout_of(config, classifier), "out", InlineExecutor())
    for stage in (load, write):
        code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read()); print('torch' in sys.modules)"
        sent = cloudpickle.dumps(partial(stage.checked, stage.build()))
        done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
        assert done.stdout.split() == [b"False"], stage.name
