"""Models by their names on the hub, from a cache laid out by hand and from a server of our own: no network."""

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import huggingface_hub.constants
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save, save_file
from typer.testing import CliRunner

from finer_ray.cli import app
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import Config, ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier
from finer_ray.pipeline.export import export
from finer_ray.store.reading import open_export
from tests.conftest import sample, write_tar
from tests.models.hub_cache import COMMIT, lay_out

BIRDS = Path(str(resources.files("finer_ray"))) / "demo" / "birds_model"
NAMES = ["red bird", "blue bird", "green bird"]
ARCHITECTURE = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 96, 96]}}
Job = Callable[..., Config]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, for a process that is offline."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def birds(cache: Path, **others: bytes | Path | None) -> Path:
    """The demo's model as the repository birds/clip; files that are None are left out."""
    files: dict[str, bytes | Path | None] = {path.name: path for path in BIRDS.iterdir()}
    names = {
        "config": "open_clip_config.json",
        "weights": "open_clip_model.safetensors",
        "binary": "open_clip_pytorch_model.bin",
    }
    files |= {names[key]: content for key, content in others.items()}
    return lay_out(cache, "birds/clip", {name: content for name, content in files.items() if content is not None})


def clip(name: str = "hf-hub:birds/clip", **options: Any) -> ModelConfig:
    return ModelConfig(backbone=f"open_clip:{name}", head="text", classes=NAMES, **options)


def tiny(cache: Path, tree: dict[str, Any] = ARCHITECTURE, **files: bytes) -> Path:
    """A small timm model with random weights as the repository some/net."""
    torch.manual_seed(3)
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    contents = {"config.json": json.dumps(tree).encode(), "model.safetensors": save(state)}
    return lay_out(cache, "some/net", contents | {name.replace("_", "."): data for name, data in files.items()})


def test_a_whole_job_by_a_name_of_the_hub_offline(cache: Path, tmp_path: Path, job: Job) -> None:
    birds(cache)
    write_tar(tmp_path / "a.tar", [*sample("a", 0), *sample("b", 1)])
    model = {"head": "text", "classes": NAMES, "image_size": None}
    by_name = {**model, "backbone": "open_clip:hf-hub:birds/clip"}
    # `job` names weights of its own.
    tree = job([str(tmp_path / "a.tar")], model=by_name).model_dump()
    tree["model"].pop("weights")
    config = parse_config(tree)
    assert config.model.weights == "pretrained"
    assert export(config).images == 2
    made = open_export(config.output.url)
    assert made.manifest.versions["hf-hub:birds/clip"] == COMMIT
    assert made.manifest.status == "complete"
    # The same files in a folder of one's own are the same model: the export goes on.
    own = {**tree, "model": {**tree["model"], "backbone": f"open_clip:local-dir:{BIRDS}"}}
    own["model"]["weights"] = str(BIRDS / "open_clip_model.safetensors")
    write_tar(tmp_path / "b.tar", sample("c", 2))
    own["input"] = {"shards": [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]}
    assert parse_config(own).fingerprint() == config.fingerprint()
    assert (export(parse_config(own)).images, open_export(config.output.url).manifest.status) == (3, "complete")


def test_a_job_with_a_classifier_of_transformers_offline(cache: Path, tmp_path: Path, job: Job) -> None:
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    names = {"id2label": {0: "finch", 1: "wren"}, "label2id": {"finch": 0, "wren": 1}}
    torch.manual_seed(0)
    made = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, num_attention_heads=2, **names))
    made.save_pretrained(tmp_path / "saved")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "saved")
    lay_out(cache, "some/vit", {path.name: path for path in (tmp_path / "saved").iterdir()})
    write_tar(tmp_path / "a.tar", [*sample("a", 0, label="wren"), *sample("b", 1, label=0)])
    model = {"backbone": "transformers:some/vit@main", "weights": "pretrained", "image_size": None}
    config = job([str(tmp_path / "a.tar")], model=model, saliency={"target": "label", "references": 1})
    assert export(config).images == 2
    made_export = open_export(config.output.url)
    assert made_export.manifest.classes == ["finch", "wren"]
    assert made_export.images["label"].to_pylist() == [1, 0]
    assert made_export.manifest.versions["hf-hub:some/vit"] == COMMIT


def test_the_repository_is_read_as_its_folder_is(cache: Path) -> None:
    birds(cache)
    theirs = build_classifier(clip(f"local-dir:{BIRDS}", weights=str(BIRDS / "open_clip_model.safetensors")))
    ours = build_classifier(clip())
    x = torch.randn((2, 3, 160, 160), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert (ours.model_fingerprint, ours.transform) == (theirs.model_fingerprint, theirs.transform)
    assert (ours.sources, theirs.sources) == ({"hf-hub:birds/clip": COMMIT}, {})
    # A folder has weights of its own, too.
    assert build_classifier(clip(f"local-dir:{BIRDS}")).model_fingerprint == ours.model_fingerprint


def test_a_revision_is_resolved_to_its_commit(cache: Path) -> None:
    birds(cache)
    other = "f" * 40
    lay_out(cache, "birds/clip", {path.name: path for path in BIRDS.iterdir()}, commit=other, ref="v2")
    for name, commit in (("birds/clip", COMMIT), ("birds/clip@v2", other), (f"birds/clip@{other}", other)):
        assert build_classifier(clip(f"hf-hub:{name}")).sources == {"hf-hub:birds/clip": commit}


def test_the_place_of_the_cache_is_of_no_account(
    cache: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    birds(cache)
    here = build_classifier(clip())
    shutil.move(cache, tmp_path / "elsewhere")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert build_classifier(clip()).model_fingerprint == here.model_fingerprint


def test_weights_in_a_bin_are_read_without_unpickling_code(cache: Path) -> None:
    state = load_file(BIRDS / "open_clip_model.safetensors")
    path = cache / "w.bin"
    torch.save(state, path)
    birds(cache, weights=None, binary=path)
    expected = build_classifier(clip(f"local-dir:{BIRDS}")).model_fingerprint
    assert build_classifier(clip()).model_fingerprint == expected


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("evil-was-here"),)  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["open_clip", "timm"])
def test_pickles_with_code_are_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    code = pickle.dumps(Evil(), protocol=2)
    birds(cache, weights=None, binary=code)
    lay_out(cache, "some/net", {"config.json": json.dumps(ARCHITECTURE).encode(), "pytorch_model.bin": code})
    config = clip() if name == "open_clip" else ModelConfig(backbone="timm:hf-hub:some/net")
    with pytest.raises(ConfigError, match=r"model\.weights: .*weights_only=True"):
        build_classifier(config)
    assert not Path("evil-was-here").exists()


def test_a_timm_repository_with_its_own_classes(cache: Path) -> None:
    tree = {**ARCHITECTURE, "label_names": ["a", "b", "c", "d", "e"]}
    folder = tiny(cache, tree)
    ours = build_classifier(ModelConfig(backbone="timm:hf-hub:some/net"))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.randn((2, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
    assert (ours.transform.size, ours.classes.names) == ((96, 96), ("a", "b", "c", "d", "e"))
    assert ours.sources == {"hf-hub:some/net": COMMIT}
    copied = build_classifier(ModelConfig(backbone=f"timm:local-dir:{folder}"))
    assert copied.model_fingerprint == ours.model_fingerprint
    bare = build_classifier(ModelConfig(backbone="timm:hf-hub:some/net", head="none", classes=["x", "y"]))
    torch.testing.assert_close(bare.cut(x).embedding, theirs.forward_head(theirs.forward_features(x), pre_logits=True))


def test_another_file_or_random_weights_in_a_repository_of_ones_choice(cache: Path, tmp_path: Path) -> None:
    tiny(cache)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    config = ModelConfig(backbone="timm:hf-hub:some/net", weights=str(tmp_path / "w.safetensors"))
    assert (build_classifier(config).class_count, build_classifier(config).transform.size) == (7, (96, 96))
    assert build_classifier(ModelConfig(backbone="timm:hf-hub:some/net", weights="random")).class_count == 5
    with pytest.raises(ConfigError, match=r"model\.weights: 'a1_in1k' is neither a file nor random"):
        build_classifier(ModelConfig(backbone="timm:hf-hub:some/net", weights="a1_in1k"))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (
            "open_clip:hf-hub:no/such",
            r"no/such is not in the cache \S+hub, and HF_HUB_OFFLINE is set: run `finer-ray fetch",
        ),
        ("timm:hf-hub:no/such@v3", r"no/such@v3 is not in the cache"),
        ("timm:hf-hub:some/net@v3", r"some/net@v3 is not in the cache"),
        ("timm:hf-hub:a/b/c", r"'a/b/c' is no name of a repository on the hub: write ORG/NAME"),
        ("timm:hf-hub:../../etc", r"is no name of a repository on the hub"),
        ("timm:hf-hub:birds/clip", r"config\.json of birds/clip is not in the cache"),
        ("open_clip:hf-hub:some/net", r"open_clip_config\.json of some/net is not in the cache"),
        ("timm:hf-hub:odd/name", r"of the architecture 'test_resnt', .*nearest: .*test_resnet"),
        ("timm:hf-hub:odd/vit", r"it is of transformers: write transformers:odd/vit"),
        ("timm:hf-hub:odd/text", r"its config\.json names no `architecture` of timm.s"),
        ("timm:local-dir:/no/such", r"no folder '/no/such'"),
        ("timm:hf-hub:odd/empty", r"the weights of odd/empty \(model\.safetensors, pytorch_model\.bin\) is not in"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(cache: Path, backbone: str, message: str) -> None:
    birds(cache)
    tiny(cache)
    lay_out(cache, "odd/name", {"config.json": b'{"architecture": "test_resnt"}'})
    lay_out(cache, "odd/vit", {"config.json": b'{"model_type": "vit"}'})
    lay_out(cache, "odd/text", {"config.json": b"{}"})
    lay_out(cache, "odd/empty", {"config.json": json.dumps(ARCHITECTURE).encode()})
    text = {"head": "text", "classes": NAMES} if backbone.startswith("open_clip") else {}
    with pytest.raises(ConfigError, match=message) as refused:
        build_classifier(ModelConfig(backbone=backbone, **text))
    assert re.fullmatch(r"model\.(backbone|weights): [^\n]+", str(refused.value))


def test_a_name_that_is_no_repositorys_needs_weights(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"input": {"shards": "x"}, "output": {"url": "y"}}
    for backbone in ("timm:resnet18", "open_clip:ViT-B-32"):
        for model in ({"backbone": backbone}, {"backbone": backbone, "weights": "pretrained"}):
            with pytest.raises(ConfigError, match=r"model\.weights: this key is needed"):
                parse_config({**tree, "model": model})


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a snapshot asks for: a commit, a list of files, and the files."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        place = self.path.partition("?")[0]
        if place == "/api/models/birds/clip/revision/main":
            self.answer(json.dumps({"id": "birds/clip", "sha": COMMIT}).encode())
        elif place == f"/api/models/birds/clip/tree/{COMMIT}":
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324
                for name, data in self.files.items()
            ]
            self.answer(json.dumps(listed).encode())
        elif place.startswith(f"/birds/clip/resolve/{COMMIT}/") and place.rpartition("/")[2] in self.files:
            self.answer(self.files[place.rpartition("/")[2]])
        else:
            self.send_response(404)
            found = "RevisionNotFound" if "/birds/clip/" in place else "RepoNotFound"
            self.send_header("X-Error-Code", found)
            self.end_headers()

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')  # noqa: S324
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub that has birds/clip, and a process that may ask it."""
    Hub.files = {path.name: path.read_bytes() for path in BIRDS.iterdir()}
    Hub.files["README.md"] = b"not needed"
    Hub.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_brings_what_a_job_then_finds_offline(
    hub: type[Hub], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"backbone": "open_clip:hf-hub:birds/clip", "head": "text", "classes": NAMES}
    job = {"input": {"shards": "x.tar"}, "model": model, "output": {"url": "out"}}
    (tmp_path / "job.yaml").write_text(json.dumps(job))
    done = CliRunner().invoke(app, ["fetch", str(tmp_path / "job.yaml")])
    assert done.exit_code == 0, done.output
    assert re.search(rf"5\.\d MB fetched: {cache}/models--birds--clip", done.output)
    assert f"hf-hub:birds/clip is at commit {COMMIT}" in done.output
    assert f"on another machine it needs {cache}" in done.output
    assert not any("README" in line or "training.json" in line for line in hub.asked)
    fetched = len(hub.asked)
    assert "nothing had to be fetched" in CliRunner().invoke(app, ["fetch", str(tmp_path / "job.yaml")]).output
    assert not [line for line in hub.asked[fetched:] if "/resolve/" in line]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert build_classifier(clip()).sources == {"hf-hub:birds/clip": COMMIT}
    assert len(hub.asked) == asked
    done = CliRunner().invoke(app, ["fetch", str(tmp_path / "job.yaml")])
    assert "HF_HUB_OFFLINE is set, with which nothing can be fetched" in str(done.exception)


def test_what_the_hub_does_not_have(hub: type[Hub]) -> None:
    for name, message in (
        ("no/such", r"the hub has no repository 'no/such', or it is private"),
        ("birds/clip@v9", r"birds/clip has no revision 'v9'"),
    ):
        with pytest.raises(ConfigError, match=rf"model\.backbone: {message}"):
            build_classifier(clip(f"hf-hub:{name}"))
    del hub.files["open_clip_model.safetensors"]
    with pytest.raises(ConfigError, match=r"model\.weights: .* has none of the files open_clip_model\.safetensors, "):
        build_classifier(clip())
    del hub.files["open_clip_config.json"]


def test_a_hub_that_does_not_answer_is_told_from_a_missing_repository(
    hub: type[Hub], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    # Between tries.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConfigError, match=rf"is not in the cache {cache}, and the hub cannot be reached \(.*fetch"):
        build_classifier(clip())
    # What the cache has is used, whatever the network does.
    birds(cache)
    assert build_classifier(clip()).sources == {"hf-hub:birds/clip": COMMIT}
