"""Folders in open_clip's local-dir layout: read as they are, nothing in them unpickled, the place of no account."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

from birds.merges import learn_merges, write_merges
from finer_ray.config.loading import parse_config
from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier
from finer_ray.saliency import SaliencySpec, explain

NAMES = ["red bird", "blue bird", "old barn"]
MODEL: dict[str, Any] = {
    "embed_dim": 24,
    "init_logit_bias": -3.0,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 20, "vocab_size": 700, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model with its own merges and random weights."""
    place = tmp_path / "model"
    place.mkdir()
    write_merges(learn_merges([*NAMES, "a photo of a."]), place / "bpe.txt.gz")
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}))
    torch.manual_seed(1)
    model = open_clip.create_model(f"local-dir:{place}", load_weights=False)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(place / "w.safetensors"))
    return place


def config(folder: Path | str, **options: Any) -> ModelConfig:
    base = {"weights": f"{folder}/w.safetensors", "head": "text", "classes": NAMES}
    return ModelConfig(backbone=f"open_clip:local-dir:{folder}", **{**base, **options})


def test_it_computes_what_open_clip_does(folder: Path) -> None:
    model = build_classifier(config(folder, concepts=["red", "barn"], templates=["a photo of a {}."]))
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = SimpleTokenizer(str(folder / "bpe.txt.gz"), context_length=20)
    x = torch.randn((2, 3, 48, 48), generator=torch.Generator().manual_seed(0))
    tokens = tokenizer([f"a photo of a {name}." for name in [*NAMES, "red", "barn"]])
    with torch.no_grad():
        image, text = theirs.encode_image(x, normalize=True), theirs.encode_text(tokens, normalize=True)
        expected = theirs.logit_scale.exp() * image @ text.T + theirs.logit_bias
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    transform = model.transform
    assert (transform.size, transform.resize, transform.interpolation) == ((48, 48), "squash", "bilinear")
    assert (transform.mean, transform.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert explain(model, x, SaliencySpec()).maps.isfinite().all()


def test_a_probe_on_its_embedding(folder: Path) -> None:
    weight = torch.randn((3, 24))
    save_file({"weight": weight}, str(folder / "probe.safetensors"))
    model = build_classifier(config(folder, head=str(folder / "probe.safetensors")))
    x = torch.randn((2, 3, 48, 48))
    torch.testing.assert_close(model(x), model.cut(x).embedding @ weight.T)


def test_fingerprints_do_not_depend_on_the_place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "some_birds"
    shutil.copytree(folder, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    here, there = (config(place) for place in (folder, "package:some_birds/model"))
    ours, theirs = build_classifier(here), build_classifier(there)
    assert ours.model_fingerprint == theirs.model_fingerprint
    assert ours.head_fingerprint == theirs.head_fingerprint
    jobs = [
        parse_config({"input": {"shards": "x"}, "model": model.model_dump(), "output": {"url": "y"}})
        for model in (here, there)
    ]
    assert jobs[0].fingerprint() == jobs[1].fingerprint()
    # The same weights under another number of attention heads are another model.
    tree = json.loads((folder / "open_clip_config.json").read_text())
    tree["model_cfg"]["vision_cfg"]["head_width"] = 16
    (folder / "open_clip_config.json").write_text(json.dumps(tree))
    assert build_classifier(here).model_fingerprint != theirs.model_fingerprint


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("evil-was-here"),)  # type: ignore[return-value]


def test_nothing_in_the_folder_is_unpickled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    build_classifier(config(folder))
    build_classifier(config(folder, weights="random"))
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"open_clip_config\.json' is missing"),
        ("{", "cannot be read as JSON"),
        ("[1]", "needs a key `model_cfg`"),
        (json.dumps({"model_cfg": {"vision_cfg": {}}}), "vision_cfg and text_cfg"),
        (json.dumps({"model_cfg": {**MODEL, "widht": 3}}), r"widht"),
        (json.dumps({"model_cfg": {**MODEL, "text_cfg": {**MODEL["text_cfg"], "vocab_size": 5}}}), r"text tower 5"),
    ],
)
def test_faults_are_named_with_their_place(folder: Path, text: str | None, message: str) -> None:
    file = folder / "open_clip_config.json"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        build_classifier(config(folder, weights="random"))


def test_places_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone: no folder"):
        build_classifier(config(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"model\.backbone: no Python package 'no_such_package'"):
        build_classifier(config("package:no_such_package/model"))
    with pytest.raises(ConfigError, match=r"model\.weights: 'laion' is neither a file nor a pretrained tag"):
        build_classifier(config(folder, weights="laion"))
    (folder / "bpe.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match="tokenizer"):
        build_classifier(config(folder))
