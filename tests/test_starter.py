"""A starter's job: what it finds in each format, and that the job is one."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import yaml
from timm.data import ImageNetInfo
from typer.testing import CliRunner

from finer_ray.at_hand import can_be_had
from finer_ray.cli import app
from finer_ray.config.loading import load_config
from finer_ray.config.schema import Config
from finer_ray.errors import InputError
from finer_ray.models import build_classifier
from finer_ray.starter import REPOSITORIES, inspect_data
from tests.conftest import photo, sample, write_tar


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the hub answers, which tests may change."""
    answers = [True]
    monkeypatch.setattr("finer_ray.at_hand._hub_answers", lambda: answers[0])
    return answers


def started(tmp_path: Path, data: str) -> tuple[Config, str]:
    """The job that `init` writes, read again, and its text."""
    job = tmp_path / "job.yaml"
    run = CliRunner().invoke(app, ["init", data, "--to", str(job), "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert f"finer-ray export {job}" in run.output
    return load_config(job), job.read_text()


def test_tars_with_usual_names(tmp_path: Path) -> None:
    for number in range(2):
        members = [part for i in range(3) for part in sample(f"{number}{i}", i, i, [1, 1, 9, 9] if i else None)]
        write_tar(tmp_path / "in" / f"t-{number}.tar", members)
    config, text = started(tmp_path, str(tmp_path / "in" / "t-{0..1}.tar"))
    assert config.input.shards == [str(tmp_path / "in" / "t-{0..1}.tar")]
    assert not config.input.fields.model_fields_set
    assert "2 shards (webdataset); the first holds 3 images" in text
    assert "Of 6 images looked at, 6 have a label, 4 a box, 0 a mask" in text
    # Nothing tells what 0, 1 and 2 mean.
    assert config.model.classes is None
    assert "labels are integers whose meaning must be given in model.classes" in text


def test_tars_with_other_names_and_classes_beside(tmp_path: Path) -> None:
    note = json.dumps({"species": "wren", "bbox": [1, 2, 30, 40]}).encode()
    write_tar(tmp_path / "in" / "a.tar", [("x.jpg", photo(1)), ("x.json", note)])
    (tmp_path / "in" / "classes.txt").write_text("robin\nwren\n")
    config, text = started(tmp_path, str(tmp_path / "in"))
    assert (config.input.fields.label, config.input.fields.box) == ("json.species", "json.bbox")
    assert config.model.classes == str(tmp_path / "in" / "classes.txt")
    assert (config.model.backbone, config.model.head) == ("open_clip:ViT-B-16-quickgelu", "text")
    assert "1 have a label, 1 a box" in text


def test_parquet_with_other_columns(tmp_path: Path) -> None:
    rows = [{"img": {"bytes": photo(i), "path": None}, "species": f"bird: {i % 2}"} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    config, _ = started(tmp_path, str(tmp_path / "a.parquet"))
    assert (config.input.fields.image, config.input.fields.label) == ("img", "species")
    assert config.model.classes == ["bird: 0", "bird: 1"]


def hugging_face(path: Path, column: str, labels: list[int], names: list[str]) -> Path:
    """A Parquet file as Hugging Face's `datasets` writes it, with a ClassLabel."""
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), (column, pa.int64())], {"huggingface": json.dumps({"info": {"features": features}})}
    )
    rows = [{"image": {"bytes": photo(i), "path": None}, column: label} for i, label in enumerate(labels)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


@pytest.mark.parametrize("column", ["label", "fine_label"])
def test_class_names_of_hugging_face(tmp_path: Path, column: str) -> None:
    config, text = started(tmp_path, str(hugging_face(tmp_path / "a.parquet", column, [0, 1, 1], ["cat's", "dog: 2"])))
    assert config.model.classes == ["cat's", "dog: 2"]
    assert config.model.backbone == "open_clip:ViT-B-16-quickgelu"
    assert config.input.fields.label == (None if column == "label" else column)
    assert "Classes by their names (all)" in text


@pytest.mark.parametrize("beside", [False, True])
def test_integer_labels_are_of_imagenet_only_in_its_order(tmp_path: Path, beside: bool) -> None:
    """Class 1 of ten classes of ImageNet is not ImageNet's class 1."""
    ten = ["tench", "English springer", "cassette player"]
    place = hugging_face(tmp_path / "in" / "a.parquet", "label", [0, 1], [] if beside else ten)
    if beside:
        (tmp_path / "in" / "classes.txt").write_text("\n".join(ten))
    config, _ = started(tmp_path, str(place))
    assert config.model.classes == (str(tmp_path / "in" / "classes.txt") if beside else ten)
    assert config.model.backbone == "open_clip:ViT-B-16-quickgelu"


def test_all_of_imagenet_in_its_order(tmp_path: Path) -> None:
    imagenet = ImageNetInfo()
    names = [imagenet.index_to_description(index) for index in range(1000)]
    config, text = started(tmp_path, str(hugging_face(tmp_path / "a.parquet", "label", [7, 901], names)))
    assert (config.model.backbone, config.model.classes) == ("timm:vit_base_patch16_224", "imagenet-1k")
    assert "The labels are classes of ImageNet." in text


def test_minus_one_is_no_label(tmp_path: Path) -> None:
    config, text = started(tmp_path, str(hugging_face(tmp_path / "a" / "a.parquet", "label", [-1] * 3, ["cat", "dog"])))
    assert config.input.fields.label == ""
    assert config.model.classes == ["cat", "dog"]
    assert "Of 3 images looked at, 0 have a label" in text
    (tmp_path / "job.yaml").unlink()
    hugging_face(tmp_path / "a" / "b.parquet", "label", [0, 1, -1], ["cat", "dog"])
    config, text = started(tmp_path, str(tmp_path / "a"))
    assert config.input.fields.label is None
    assert "Of 6 images looked at, 2 have a label" in text


def test_folders_that_are_splits_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("train/cat", "Valid/cat"):
        (root / name).mkdir(parents=True)
        (root / name / "x.jpg").write_bytes(photo(1))
    with pytest.raises(InputError, match=r"\(Valid, train\) are splits, not classes: give .*/in/train$"):
        inspect_data(str(root))
    assert inspect_data(str(root / "train")).classes == ("cat",)
    (root / "freight" / "deep").mkdir(parents=True)
    (root / "freight" / "x.jpg").write_bytes(photo(1))
    assert inspect_data(str(root)).classes == ("Valid", "freight", "train")


@pytest.mark.parametrize(
    ("names", "backbone", "classes"),
    [
        (["goldfish", "n01443537"], "timm:vit_base_patch16_224", "imagenet-1k"),
        (["zebra stripes", "owl eyes"], "open_clip:ViT-B-16-quickgelu", ["owl eyes", "zebra stripes"]),
    ],
)
def test_folders_are_classes(tmp_path: Path, names: list[str], backbone: str, classes: object) -> None:
    for name in names:
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.jpg").write_bytes(photo(1))
    config, _ = started(tmp_path, str(tmp_path / "in"))
    assert (config.model.backbone, config.model.classes) == (backbone, classes)


def test_without_labels(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.jpg", photo(1))])
    config, text = started(tmp_path, str(tmp_path / "a.tar"))
    assert config.model.head == "native"
    assert "labels are missing" in text


def test_a_place_cannot_break_the_yaml(tmp_path: Path) -> None:
    name = "a: b\nmodel: {} # '"
    (tmp_path / name / "cat").mkdir(parents=True)
    (tmp_path / name / "cat" / "x.jpg").write_bytes(photo(1))
    config, text = started(tmp_path, str(tmp_path / name))
    assert config.input.shards == [str(tmp_path / name)]
    assert list(yaml.safe_load(text)) == ["input", "model", "saliency", "metrics", "output"]


def test_what_is_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        inspect_data(str(tmp_path / "none.tar"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image found"):
        inspect_data(str(tmp_path / "empty"))
    write_tar(tmp_path / "t" / "a.tar", [("x.txt", b"words")])
    with pytest.raises(InputError, match="no image found"):
        inspect_data(str(tmp_path / "t"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "t" / "b.parquet")
    with pytest.raises(InputError, match="several formats"):
        inspect_data(str(tmp_path / "t"))


def test_no_job_is_written_over(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x.jpg", photo(1))])
    (tmp_path / "job.yaml").write_text("mine")
    run = CliRunner().invoke(app, ["init", str(tmp_path / "a.tar"), "--to", str(tmp_path / "job.yaml")])
    assert run.exit_code == 2
    assert "name another file with --to" in run.output
    assert (tmp_path / "job.yaml").read_text() == "mine"


def wrens(tmp_path: Path, name: str = "wren") -> str:
    for number in range(2):
        folder = tmp_path / "in" / f"{name} {number}"
        folder.mkdir(parents=True)
        (folder / "x.jpg").write_bytes(photo(number))
    return str(tmp_path / "in")


def test_without_a_hub_an_installed_model_is_proposed(tmp_path: Path, hub: list[bool]) -> None:
    hub[0] = False
    config, text = started(tmp_path, wrens(tmp_path))
    assert (config.model.backbone, config.model.classes) == ("timm:tf_efficientnet_lite0", "imagenet-1k")
    assert "It does not know the classes of this data" in text
    assert '# model: {"backbone": "open_clip:ViT-B-16-quickgelu"' in text
    assert build_classifier(config.model).class_count == 1000


def test_what_the_cache_has_needs_no_hub(tmp_path: Path, hub: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    hub[0] = False
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--timm--vit_base_patch16_clip_224.openai" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    data = wrens(tmp_path)
    assert started(tmp_path, data)[0].model.backbone == "timm:tf_efficientnet_lite0"
    (snapshot / "open_clip_model.safetensors").touch()
    (tmp_path / "job.yaml").unlink()
    assert started(tmp_path, data)[0].model.backbone == "open_clip:ViT-B-16-quickgelu"


def test_where_nothing_can_be_had_it_is_said(tmp_path: Path, hub: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    hub[0] = False
    monkeypatch.setattr("finer_ray.at_hand.PACKAGE", "no_such_package")
    config, text = started(tmp_path, wrens(tmp_path))
    assert config.model.backbone == "open_clip:ViT-B-16-quickgelu"
    assert "the Hugging Face hub does not answer: run `finer-ray fetch`" in text


def test_the_weights_that_are_looked_for_are_those_of_the_proposals() -> None:
    clip = open_clip.get_pretrained_cfg("ViT-B-16-quickgelu", "openai")["hf_hub"].strip("/")
    vit = timm.get_pretrained_cfg("vit_base_patch16_224.augreg_in21k_ft_in1k").hf_hub_id
    assert {"timm:vit_base_patch16_224": vit, "open_clip:ViT-B-16-quickgelu": clip} == REPOSITORIES


def test_a_hub_that_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        # It answers, if only that it does not know HEAD.
        assert can_be_had("org/name")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not can_be_had("org/name")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        server.shutdown()
    assert not can_be_had("org/name")


def test_next_steps_name_the_trial_and_the_report(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["init", wrens(tmp_path), "--to", str(tmp_path / "job.yaml"), "--output", "o"])
    job = tmp_path / "job.yaml"
    steps = [line.partition("#")[0].strip() for line in run.output.splitlines()[1:]]
    assert steps[:2] == [f"finer-ray export {job} --dry-run", f"finer-ray export {job}"]
    assert "finer-ray report o" in steps
