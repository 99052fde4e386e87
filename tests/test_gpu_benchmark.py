"""benchmarks.gpu in miniature: every section runs without a GPU, and nothing is called a result there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_sections.goals import goals
from benchmarks.gpu_sections.setting import DINO, VIT

ROOT = Path(__file__).parents[1]
SECTIONS = "machine,lower_bound,hardware,rates,job,precision,script,profile"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--executor", "inline"]
    command += ["--only", SECTIONS, "--patience", "10", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_every_section_is_measured(record: Any) -> None:
    assert record["faults"] == {}
    assert all(record[name] for name in SECTIONS.split(","))


@pytest.mark.slow
def test_without_a_gpu_there_is_no_result(record: Any) -> None:
    assert record["result"] is False
    assert [line["met"] for line in record["goals"]] == [None] * len(record["goals"])


@pytest.mark.slow
def test_numbers_fit_together(record: Any) -> None:
    for name in (VIT, DINO):
        counts, part = record["lower_bound"][name]["operations"], record["rates"][name]
        # Derivatives of the whole would be twice a forward pass.
        assert 0 < counts["engine"] < 2 * counts["forward"]
        assert {"plain", "plain, all in half", "engine"} == set(part["formats"]["bf16"])
        for run in part["formats"]["bf16"].values():
            assert 0 < run["min"] <= run["median"] <= run["max"]
    assert record["lower_bound"][VIT]["bytes"]["to the device (uint8 pixels)"] == 3 * 160 * 160
    assert record["job"]["no deletion"]["images"] == 32
    exact = next(iter(record["precision"].values()))["tf32"]["gradcam"]
    assert exact["correlation"]["min"] == pytest.approx(1.0, abs=1e-5), "a CPU knows no tf32"
    assert sum(line["share"] for line in record["profile"][f"{VIT}, engine"]["top"]) <= 1.0001


def test_goals_take_the_best_of_both_sides() -> None:
    rates = {
        "batches": {"2": {"plain": {"median": 90.0}, "engine": {"median": 80.0}}, "4": {"error": "out of memory"}},
        "formats": {"bf16": {"plain": {"median": 100.0}, "engine": {"median": 97.0}}},
    }
    record: Any = {
        "result": True,
        "models": [VIT],
        "rates": {VIT: rates},
        "compiled": {VIT: {"True": {"batch": 2, "plain": {"median": 110.0}, "engine": {"median": 99.0}}}},
        "hardware": {"loading, images/s": {"all cores": 60.0}},
        "job": {"no deletion": {"images_per_second": {"lower": 58.0}}, "deletion and drops": {}},
        "script": {"pytorch-grad-cam": 3.0},
    }
    found = {line["goal"]: (line["measured"], line["met"]) for line in goals(record)}
    assert found[f"{VIT}: engine / plain forward, each at its best"] == (pytest.approx(0.9), False)
    assert found[f"{VIT}: the same at one batch, nothing compiled"] == (pytest.approx(0.97), True)
    assert found["whole job / loading on all cores"] == (pytest.approx(58 / 60), True)
    assert found["whole job / official script's loop"] == (pytest.approx(58 / 3), False)


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_asked_for_in_vain() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no GPU here" in done.stderr
