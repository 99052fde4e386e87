"""`compute.precision: auto`: what it becomes, who is told, and that an export has one number format throughout."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finer_ray.config.schema import Config
from finer_ray.errors import ExportError
from finer_ray.models import build_classifier
from finer_ray.pipeline import precision as module
from finer_ray.pipeline.executor import InlineExecutor, RayExecutor
from finer_ray.pipeline.export import export
from finer_ray.pipeline.forecast import forecast
from finer_ray.pipeline.precision import has_bf16_products, with_precision
from finer_ray.store.reading import open_export
from tests.conftest import sample, write_tar

Job = Callable[..., Config]
VIT = {"backbone": "timm:test_vit", "weights": "random", "image_size": 64}


def capable(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    monkeypatch.setattr(module, "has_bf16_products", lambda: answer)


def test_what_torch_says_of_the_cpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.CHECKS:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert not has_bf16_products()
    for name in module.CHECKS:
        with monkeypatch.context() as one:
            one.setattr(torch.cpu, name, lambda: True)
            assert has_bf16_products()
            one.setattr(torch.backends.mkldnn, "is_available", lambda: False)
            assert not has_bf16_products()
    # Private names may go.
    for name in module.CHECKS:
        monkeypatch.delattr(torch.cpu, name)
    assert not has_bf16_products()


@pytest.mark.parametrize(
    ("model", "device", "answer", "expected"),
    [
        (VIT, "cpu", True, "bf16"),
        (VIT, "auto", True, "bf16"),
        (VIT, "auto", False, "fp32"),
        (VIT, "cuda", True, "fp32"),
        ({}, "cpu", True, "fp32"),
    ],
    ids=["a ViT", "no GPU", "no such CPU", "on a GPU", "a CNN"],
)
def test_it_is_bf16_for_vits_where_the_cpu_has_it(
    job: Job, monkeypatch: pytest.MonkeyPatch, model: dict[str, object], device: str, answer: bool, expected: str
) -> None:
    capable(monkeypatch, answer)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = job("in.tar", model=model, compute={"precision": "auto", "device": device})
    found, notes = with_precision(config, build_classifier(config.model), InlineExecutor())
    assert found.compute.precision == expected
    assert config.compute.precision == "auto"
    assert len(notes) == 1
    assert f"compute.precision: auto is {expected} here" in notes[0]
    named = job("in.tar", model=model, compute={"precision": expected, "device": device})
    assert found.fingerprint() == named.fingerprint() != config.fingerprint()


@pytest.mark.parametrize("named", ["fp32", "bf16", "fp16", "tf32"])
def test_a_named_one_stays_and_nobody_is_asked(job: Job, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setattr(module, "has_bf16_products", lambda: pytest.fail("asked"))
    config = job("in.tar", model=VIT, compute={"precision": named})
    assert with_precision(config, build_classifier(config.model), InlineExecutor()) == (config, [])


def test_the_export_holds_what_it_became_and_is_not_continued_in_another(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [str(write_tar(tmp_path / f"{name}.tar", sample(name, seed))) for seed, name in enumerate("ab")]
    auto = job(shards[0], model=VIT, compute={"precision": "auto"})
    capable(monkeypatch, True)
    assert any("auto is bf16 here" in note for note in forecast(auto).notes)
    assert any("auto is bf16 here" in note for note in export(auto).notes)
    manifest = open_export(auto.output.url).manifest
    named = job(shards[0], model=VIT, compute={"precision": "bf16"})
    assert manifest.config["compute"]["precision"] == "bf16"
    assert manifest.config_fingerprint == named.fingerprint()
    # Whether it is chosen or named, it is the same export.
    assert export(job(shards, model=VIT, compute={"precision": "bf16"})).new == 1
    capable(monkeypatch, False)
    with pytest.raises(ExportError, match=r"precision.*bf16.*fp32"):
        export(job(shards, model=VIT, compute={"precision": "auto"}))


def test_a_cluster_of_our_own_is_this_machine_and_not_started(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(RayExecutor, "connect", lambda self: pytest.fail("a cluster was started"))
    compute = job("in.tar").compute
    assert RayExecutor().runs_on_cpus(compute, lambda: True)
    assert not RayExecutor().runs_on_cpus(compute, lambda: False)


def test_every_node_of_a_cluster_is_asked(ray_cluster: None, job: Job, tmp_path: Path) -> None:
    compute, asked = job("in.tar", compute={"device": "cpu"}).compute, tmp_path / "asked"

    def answer() -> bool:
        asked.write_text(str(os.getpid()))
        return not asked.with_name("incapable").exists()

    with RayExecutor() as executor:
        assert executor.runs_on_cpus(compute, answer)
        assert int(asked.read_text()) != os.getpid()
        asked.with_name("incapable").touch()
        assert not executor.runs_on_cpus(compute, answer)
