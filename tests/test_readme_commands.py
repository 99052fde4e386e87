"""Every command of README.md as it stands, in a folder where what it names exists: small data, tiny models, S3 here."""

import json
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.loading import load_config, parse_config
from finer_ray.pipeline.export import export
from tests.conftest import sample, write_tar
from tests.datasets import trees
from tests.store.exports import write_small_export
from tests.test_readme import README, blocks, commands, section

# Lines that are not run here, by their beginnings, and why.
LEFT_OUT = {
    "make demo": "takes two minutes; tests/demo/test_demo.py runs the demo",
    "make test": "is what runs this",
    ".venv/bin/python -m birds": "takes two minutes; tests/birds/test_shards.py runs it for fewer",
    "source .venv/bin/activate": "belongs to a shell; the line of `ray job submit` says what it is for",
    "export RAY_AUTH_MODE": "belongs to a shell; tests/demo/test_demo.py sets the same variables",
    "ray get-auth-token": "of the cluster that tests/demo/test_demo.py starts",
    "ray start": "a cluster with a dashboard; tests/demo/test_demo.py starts one",
    "ray job submit": "needs that cluster; tests/demo/test_demo.py submits the job",
    "ray stop": "would stop whatever Ray runs on this machine",
}
# What the README names further down than its first use: probes learn from what was packed, and jobs use the probes.
FIRST = ("pack", "probe")
# Stands for the README's models, whose weights lie on a hub.
CNN = {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64}
INLINE = {"executor": "inline"}
MADE = (
    "job.yaml",
    "row-0.png",
    "pair.png",
    "demo_export/pairs.parquet",
    "demo_export/birds_export/traits.parquet",
    "demo_export/report/index.html",
    *(f"study/{name}.png" for name in ("sweep", "failure_cases", "similarity", "aggregation", "faithfulness")),
    "probes/accuracies.md",
    "probes/done/clip.safetensors",
    "clip_export/export.json",
    "cub-shards/findings.txt",
    "fish/pack.json",
)


def lines() -> list[str]:
    """Every command line of the README: what is indented by four, but lists of files and a command's second line."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^ {4}(?!OUT/)(\S.*)$", text, re.MULTILINE)


def test_every_line_is_run_or_left_out_for_a_reason() -> None:
    others = [line for line in lines() if not line.startswith(".venv/bin/finer-ray ")]
    assert len(lines()) - len(others) == len(commands())
    for line in others:
        assert line.startswith(tuple(LEFT_OUT)), line
    for beginning in LEFT_OUT:
        assert any(line.startswith(beginning) for line in others), beginning


@pytest.fixture
def scratch(tmp_path: Path, s3: None, clip: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, with the data sets, the exports and the configs that commands name; buckets beside it."""
    monkeypatch.chdir(tmp_path)
    write_small_export(tmp_path)
    trees.cub(tmp_path / "data" / "CUB")
    trees.aircraft(tmp_path / "data" / "aircraft")
    trees.fishvista(tmp_path / "data" / "fish-vista")
    words = {"backbone": clip, "weights": "random"}
    _explain_finches(words)
    _fill_bucket(tmp_path)
    _write_probes(words)
    _write_jobs(words)
    return tmp_path


def _fill_bucket(folder: Path) -> None:
    """The thousand shards of the README's range; in all but the first three the same photo."""
    shards = [[m for i in range(5) for m in sample(f"{n}-{i}", i, i % 2, [9, 9, 60, 50])] for n in range(3)]
    tars = [write_tar(folder / "tar", members).read_bytes() for members in [*shards, sample("same", 1, 0)]]
    tars += tars[-1:] * 996
    fsspec.filesystem("s3").pipe({f"bucket/train-{n:04d}.tar": content for n, content in enumerate(tars)})


def _explain_finches(words: dict[str, Any]) -> None:
    """The demo's export of birds, of the two species that the README compares, by a tiny model."""
    birds = resources.files("finer_ray.demo")
    pair = ["red-billed white-barred reed finch", "yellow-billed white-barred reed finch"]
    saliency = {"target": "label", "references": 2, "selection": pair}
    finches = {"input": {"shards": str(birds / "finches" / "*.tar")}, "saliency": saliency}
    model = {**words, "head": "text", "classes": str(birds / "birds" / "classes.json")}
    export(parse_config({**finches, "model": model, "output": {"url": "demo_export/birds_export"}, "compute": INLINE}))


def _write_probes(words: dict[str, Any]) -> None:
    """The README's probes.yaml with tiny backbones, and the exports that it expects."""
    [text] = blocks(section("Linear probes"), "yaml")
    tree = yaml.safe_load(text)
    tree["backbones"] = [{"name": "vit_base_patch16_224", **CNN}, {"name": "clip", **words}]
    Path("probes.yaml").write_text(yaml.safe_dump(tree | {"compute": INLINE}))
    url = tree["datasets"][1]["train"]["export"]
    for named in tree["backbones"]:
        name, model = named["name"], {key: value for key, value in named.items() if key != "name"}
        made = {
            "model": {**model, "head": "none", "classes": ["even", "odd"]},
            "output": {"url": url.format(backbone=name)},
        }
        export(parse_config({"input": {"shards": "s3://bucket/train-{0000..0002}.tar"}, "compute": INLINE, **made}))


def _write_jobs(words: dict[str, Any]) -> None:
    """Jobs on the packed birds, which the README names without showing them."""
    shards = {"input": {"shards": "cub-shards/train-*.tar"}, "compute": INLINE}
    probe = {**words, "head": "probes/cub/clip.safetensors"}
    text = {**words, "head": "text", "classes": "cub-shards/classes.txt"}
    jobs = {"clip_job": words, "class_job": probe, "text_job": text}
    for name, model in jobs.items():
        tree = {**shards, "model": model, "output": {"url": name.replace("job", "export")}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(tree))


def _after_init() -> None:
    """The job that `init` wrote is whole; from here on it is the README's own, on three shards, with a tiny model."""
    assert load_config(Path("job.yaml")).input.shards == ["s3://bucket/train-{0000..0999}.tar"]
    tree = yaml.safe_load(blocks(section("Your own data"), "yaml")[0])
    tree["input"]["shards"] = "s3://bucket/train-{0000..0002}.tar"
    tree["model"] |= CNN
    # Few steps for the study of aggregation, which measures deletion.
    Path("job.yaml").write_text(yaml.safe_dump(tree | {"metrics": {"steps": 4}, "compute": INLINE}))


def _after_pack() -> None:
    """The attributes that a study is given are those that were packed."""
    shutil.copy("cub-shards/attributes.json", "attributes.json")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_every_command_runs_as_it_stands(scratch: Path) -> None:
    after = {"init": _after_init, "pack": _after_pack}
    for arguments in sorted(commands(), key=lambda line: (*FIRST, line[0]).index(line[0])):
        run = CliRunner().invoke(app, arguments)
        assert run.exit_code == 0, (arguments, run.output, run.exception)
        assert run.output, arguments
        after.get(arguments[0], lambda: None)()
    assert [name for name in MADE if not (scratch / name).is_file()] == []
    store = fsspec.filesystem("s3")
    assert json.loads(store.cat_file("bucket/exports/train/export.json"))["counts"] == {"images": 15, "failures": 0}
    assert store.exists("bucket/aircraft/findings.txt")
