"""Probes end to end: backbones x data sets, resuming, and a job that uses one."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors
import yaml
from PIL import Image
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.loading import load_section, parse_section
from finer_ray.config.schema import Config
from finer_ray.errors import ConfigError, ExportError, FinerRayError, InputError
from finer_ray.models.head import probe_metadata
from finer_ray.pipeline.export import export
from finer_ray.probe import run as probing
from finer_ray.probe.config import ProbesConfig
from finer_ray.probe.run import probe, probe_file
from finer_ray.store.reading import open_export
from finer_ray.store.verify import verify_export
from tests.conftest import Members, write_tar
from tests.probe.exports import write_export

COLOURS = {"red": (200, 60, 60), "green": (60, 180, 70), "blue": (60, 70, 210)}
NAMES = list(COLOURS)


def pictures(count: int, seed: int, labels: str = "name", noise: int = 90) -> Members:
    """Noisy photos that are mostly of one colour, labelled with its name or its index."""
    random = np.random.default_rng(seed)
    members: Members = []
    for i in range(count):
        index = int(random.integers(len(NAMES)))
        pixels = np.array(COLOURS[NAMES[index]]) + random.normal(0, noise, (12, 12, 3)) + random.normal(0, 25, 3)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((72, 72), Image.Resampling.NEAREST)
        file = Path(f"p{seed}-{i:03d}")
        label: Any = NAMES[index] if labels == "name" else index
        members += [(f"{file}.png", _png(image)), (f"{file}.json", json.dumps({"label": label}).encode())]
    return members


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def job(folder: Path, **sections: Any) -> dict[str, Any]:
    """Two backbones, two data sets: one with a test, one with a share held out."""
    return {
        "backbones": [
            {"backbone": "timm:test_resnet", "weights": "random", "image_size": 64},
            {"name": "vit", "backbone": "timm:test_vit", "weights": "random", "image_size": 64},
        ],
        "datasets": [
            {
                "name": "named",
                "classes": [*NAMES, "never"],
                "train": {"shards": str(folder / "train.tar"), "max_failures": 0.5},
                "test": {"shards": str(folder / "test.tar")},
            },
            {"name": "numbered", "classes": NAMES, "train": {"shards": str(folder / "numbered.tar")}, "held_out": 0.4},
        ],
        "compute": {"executor": "inline"},
        "probe": {"penalty": 2.0},
        "output": {"url": str(folder / "probes")},
        **sections,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished probing job: its folder and its config."""
    folder = tmp_path_factory.mktemp("probing")
    stray = [("none.png", _png(Image.new("RGB", (64, 64)))), ("bad.png", b"no photo"), ("bad.json", b"{}")]
    odd = [("odd.png", _png(Image.new("RGB", (64, 64)))), ("odd.json", b'{"label": "purple"}')]
    write_tar(folder / "train.tar", [*pictures(90, 1), *stray, *odd])
    write_tar(folder / "test.tar", pictures(60, 2))
    write_tar(folder / "numbered.tar", pictures(120, 3, "index"))
    tree = job(folder)
    (folder / "probes.yaml").write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(app, ["probe", str(folder / "probes.yaml"), "--set", "probe.seed=0"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "named with vit: 2 images without a label that is a class; 1 images or shards failed" in (
        result.output.replace("\n", " ")
    )
    return folder, tree


def records(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = pq.read_table(folder / "probes" / "accuracies.parquet").to_pylist()
    return {(line["dataset"], line["backbone"]): line for line in lines}


def test_two_backbones_by_two_data_sets(world: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = world
    found = records(folder)
    assert set(found) == {(d, b) for d in ("named", "numbered") for b in ("test_resnet", "vit")}
    for (dataset, backbone), line in found.items():
        assert line["held_out_accuracy"] > 0.6, (dataset, backbone)
        assert line["train_accuracy"] > 0.6
        metadata = probe_metadata((folder / "probes" / line["file"]).read_bytes())
        assert json.loads(metadata["held_out_accuracy"]) == line["held_out_accuracy"]
        assert json.loads(metadata["settings"])["penalty"] == 2.0
    one = found["named", "vit"]
    assert (one["train_count"], one["held_out_count"]) == (90, 60)
    assert (one["unlabelled"], one["unknown"], one["failed"], one["untrained"]) == (2, 0, 1, ["never"])
    other = found["numbered", "vit"]
    assert other["train_count"] + other["held_out_count"] == 120
    assert 30 < other["held_out_count"] < 66
    text = (folder / "probes" / "accuracies.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| vit"))
    for line in (one, other):
        assert f"{100 * line['held_out_accuracy']:.1f} ({100 * line['train_accuracy']:.1f})" in row
    assert "2 images without a label that is a class" in text
    assert verify_export(str(folder / "probes" / "embeddings" / "named" / "vit" / "train")) == []


@pytest.mark.slow
def test_a_job_takes_the_probe_and_finds_its_accuracy(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, tree = world
    model = {key: value for key, value in tree["backbones"][1].items() if key != "name"}
    sections = {
        "input": {"shards": str(folder / "test.tar")},
        "model": {**model, "head": str(folder / "probes" / "named" / "vit.safetensors")},
        "output": {"url": str(tmp_path / "out")},
    }
    export(parse_section(Config, sections))
    made = open_export(str(tmp_path / "out"))
    assert made.manifest.classes == [*NAMES, "never"]
    hits = np.array(made.images["label"]) == np.array(made.images["predicted"])
    stated = records(folder)["named", "vit"]
    assert hits.mean() == stated["held_out_accuracy"]
    assert made.manifest.model_fingerprint == stated["model_fingerprint"]


def test_what_is_finished_is_not_done_again(world: tuple[Path, dict[str, Any]]) -> None:
    folder, tree = world

    def stamps() -> dict[Path, int]:
        files = [path for path in (folder / "probes").rglob("*") if path.is_file()]
        made = [path for path in files if "accuracies" not in path.name and path.parent.name != "lease"]
        return {path: path.stat().st_mtime_ns for path in made}

    def weights(name: str) -> np.ndarray:
        with safetensors.safe_open(str(folder / "probes" / name), "np") as file:
            return file.get_tensor("weight")

    before, first = stamps(), weights("named/vit.safetensors")
    probe(parse_section(ProbesConfig, tree))
    assert stamps() == before

    # A lost probe comes back bit for bit, from the embeddings that are there.
    (folder / "probes" / "named" / "vit.safetensors").unlink()
    probe(parse_section(ProbesConfig, tree))
    changed = {path for path, stamp in stamps().items() if before.get(path) != stamp}
    assert changed == {folder / "probes" / "named" / "vit.safetensors"}
    np.testing.assert_array_equal(weights("named/vit.safetensors"), first)

    # Other settings of the training: probes are trained anew, images are not embedded again.
    before = stamps()
    probe(load_section(ProbesConfig, folder / "probes.yaml", ["probe.penalty=500"]))
    changed = {path for path, stamp in stamps().items() if before.get(path) != stamp}
    assert changed == {folder / "probes" / path["file"] for path in records(folder).values()}
    assert not np.array_equal(weights("named/vit.safetensors"), first)

    # Other embeddings in the same place are refused, and nothing is thrown away.
    other = json.loads(json.dumps(tree))
    other["backbones"][1]["seed"] = 7
    with pytest.raises(ExportError, match=r"embeddings/named/vit/train: .*another (config|model)"):
        probe(parse_section(ProbesConfig, other))
    probe(parse_section(ProbesConfig, tree))
    np.testing.assert_array_equal(weights("named/vit.safetensors"), first)


def test_a_file_that_is_no_probe_is_not_written_over(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, tree = world
    config = parse_section(ProbesConfig, {**tree, "output": {"url": str(tmp_path / "mine")}})
    file = tmp_path / "mine" / probe_file(config.datasets[-1].name, config.backbones[0].title)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    with pytest.raises(ExportError, match=r"is no probe that was trained here.*choose another output\.url"):
        probe(config)
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [file]
    assert file.read_bytes() == b"mine"


def test_exports_instead_of_shards(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The embeddings that are there already give the same probes."""
    folder, tree = world
    made = folder / "probes" / "embeddings"
    exports: dict[str, Any] = {
        "name": "again",
        "train": {"export": f"{made}/named/{{backbone}}/train"},
        "test": {"export": [f"{made}/named/{{backbone}}/test"]},
    }
    again = {**tree, "datasets": [exports], "output": {"url": str(tmp_path / "again")}}
    for place in made.glob("named/*/*/export.json"):
        # As earlier versions wrote it, which had none of these keys.
        manifest = json.loads(place.read_text())
        for key in ("activation", "cam_layer", "head_scale", "kwargs"):
            del manifest["config"]["model"][key]
        place.write_text(json.dumps(manifest))
    probe(parse_section(ProbesConfig, again))
    lines = pq.read_table(tmp_path / "again" / "accuracies.parquet").to_pylist()
    assert len(lines) == 2
    for line in lines:
        stated = records(folder)["named", line["backbone"]]
        for name in ("held_out_accuracy", "train_accuracy", "unlabelled", "unknown", "failed", "untrained"):
            assert line[name] == stated[name]
    assert not (tmp_path / "again" / "embeddings").exists()
    exports["train"]["export"] = f"{made}/named/vit/train"
    with pytest.raises(ExportError, match=r"datasets\.0\.train\.export: .* was made with backbone 'timm:test_vit'"):
        probe(parse_section(ProbesConfig, again))


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_data_set_without_labels_leaves_the_others(
    executor: str, world: tuple[Path, dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder, tree = world
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
        tree = {**tree, "compute": {"executor": "ray"}}
    there = f"{folder}/probes/embeddings/numbered/vit/train"
    model = open_export(there).manifest.config["model"]
    write_export(tmp_path / "plain", np.ones((6, 4), np.float32), [None] * 6, NAMES, model=model)
    datasets = [
        {"name": "plain", "classes": NAMES, "train": {"export": str(tmp_path / "plain")}},
        {"name": "ok", "classes": NAMES, "train": {"export": there}},
    ]
    config = {**tree, "backbones": tree["backbones"][1:], "datasets": datasets, "output": {"url": str(tmp_path / "p")}}
    with pytest.raises(InputError, match=r"plain with vit: no image to train on .*: \d+ have none"):
        probe(parse_section(ProbesConfig, config))
    assert [line["dataset"] for line in pq.read_table(tmp_path / "p" / "accuracies.parquet").to_pylist()] == ["ok"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"backbones": [{"backbone": "timm:test_vti", "weights": "random"}]}, ConfigError, r"backbones\.0\.backbone: "),
        ({"backbones": [{"backbone": "timm:test_vit", "weights": "x.pt"}]}, ConfigError, r"backbones\.0\.weights: no"),
        ({"datasets.0.classes": "none.txt"}, ConfigError, r"datasets\.0\.classes: 'none\.txt' is neither"),
        ({"datasets.0.classes": ["one"]}, ConfigError, r"datasets\.0\.classes: .*two classes"),
        ({"datasets.1.train.shards": "/none/x.tar"}, InputError, r"datasets\.1\.train\.shards: there is no"),
        ({"datasets.1.train": {"export": "/none"}}, ExportError, r"datasets\.1\.train\.export: /none: there is no"),
        ({"datasets.0.train.shard": "x"}, ConfigError, r"datasets\.0\.train\.shard: unknown key \(nearest: shards"),
        ({"datasets.1.train": {"export": "x", "shards": "y"}}, ConfigError, r"train\.shards: unknown .*valid: export"),
        ({"datasets.0.classes": None}, ConfigError, r"datasets\.0: shards need classes"),
        ({"datasets.1.name": "named"}, ConfigError, r"datasets: the name 'named' twice"),
        ({"datasets.1.name": "../up"}, ConfigError, r"datasets\.1\.name"),
        ({"datasets.1.held_out": 1.0}, ConfigError, r"datasets\.1\.held_out"),
        ({"backbones.0.head": "native"}, ConfigError, r"backbones\.0: a backbone takes no head"),
        ({"probe.penalty": -1}, ConfigError, r"probe\.penalty"),
        ({"probe.penaltie": 3}, ConfigError, r"probe\.penaltie: unknown key \(nearest: penalty"),
    ],
)
def test_a_wrong_config_stops_before_any_work(
    world: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[FinerRayError],
    message: str,
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(probing, "export", work)
    tree = json.loads(json.dumps(world[1]))
    for place, value in change.items():
        *path, last = place.split(".")
        node = tree
        for key in path:
            node = node[int(key)] if key.isdigit() else node[key]
        node[last] = value
    with pytest.raises(error, match=message):
        probe(parse_section(ProbesConfig, tree))
