"""Heads from files: in the forms that people have them, from wherever they were saved, and with a scale."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.checkpoint import fingerprint
from finer_ray.models.head import LinearHead, probe_bytes, read_probe

WEIGHT, BIAS = torch.randn((5, 6), generator=torch.Generator().manual_seed(0)), torch.arange(5.0)
LINEAR = {"weight": WEIGHT, "bias": BIAS}
NORM = {"norm.weight": torch.ones(6), "norm.bias": torch.zeros(6)}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in LINEAR.items()}


FORMS: dict[str, Any] = {
    "a linear layer": LINEAR,
    "a bare tensor": WEIGHT,
    "a bare parameter": nn.Parameter(WEIGHT),
    "weight alone": {"weight": WEIGHT},
    "data-parallel": prefixed("module."),
    "data-parallel's fc": prefixed("module.fc."),
    "compiled": prefixed("_orig_mod."),
    "fc": prefixed("fc."),
    "a sequence's layer": prefixed("classifier.1."),
    "a name of one's own": {**prefixed("my_probe."), **NORM},
    "nested": {"linear": LINEAR, "epoch": 3},
    "a training's": {"state_dict": prefixed("head."), "optimizer": {"state": {0: {"exp_avg": WEIGHT}}}, "epoch": 3},
    "beside a matrix without a bias": {**prefixed("probe."), "prototypes.weight": torch.randn(9, 6)},
    "half precision": {name: value.bfloat16() for name, value in LINEAR.items()},
    "a whole model": {"blocks.0.weight": torch.ones(6, 6), "blocks.0.bias": torch.ones(6), **prefixed("fc.")},
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ""])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str, suffix: str, tmp_path: Path) -> None:
    torch.save(FORMS[form], tmp_path / f"head{suffix}")
    head, names = read_probe(tmp_path / f"head{suffix}")
    known = WEIGHT.bfloat16().float() if form == "half precision" else WEIGHT
    assert torch.equal(head.weight, known)
    assert torch.equal(head.bias, torch.zeros(5) if "bare" in form or "alone" in form else BIAS)
    assert (names, head.normalize, head.scale.item()) == (None, False, 1.0)


@pytest.mark.parametrize("legacy", [False, True])
def test_saved_on_a_gpu(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the official classifiers were, and read where there is no GPU."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:1")
    torch.save(LINEAR, tmp_path / "head.pth", _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "head.pth", weights_only=True)
    head, _ = read_probe(tmp_path / "head.pth")
    assert torch.equal(head.weight, WEIGHT)
    assert head.weight.device.type == "cpu"


def test_a_models_own_checkpoint_gives_its_own_head(tmp_path: Path) -> None:
    config = ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64)
    native = build_classifier(config)
    torch.save({"state_dict": native.split.encoder.state_dict()}, tmp_path / "whole.pth")
    read = build_classifier(config.model_copy(update={"head": str(tmp_path / "whole.pth")}))
    embedding = torch.randn((2, native.embedding_size))
    assert torch.equal(read.head(embedding), native.head(embedding))
    assert read.head_fingerprint == native.head_fingerprint


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("evil was here",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"head\.pth' holds no tensors by name: save the head's state_dict alone"),
        ({"a": LINEAR, "b": LINEAR}, r"several dicts of tensors \(a, b\): save the head's"),
        ({**prefixed("a."), **prefixed("b.")}, r"2 layers that may be the classifier \(a\.weight, b\.weight\)"),
        (
            {"proj": WEIGHT, "x.weight": torch.ones(3)},
            r"needs a tensor `weight` \(classes, emb.*proj \(5, 6\), x\.weight",
        ),
        ({"weight": WEIGHT, "bias": torch.zeros(4)}, r"bias \(4,\) does not fit weight \(5, 6\)"),
        ({"weight": WEIGHT.to(torch.int8)}, r"holds integers \(torch\.int8\)"),
        ({"weight": WEIGHT / 0, "bias": BIAS * torch.nan}, r"NaN .* in 1 tensors \(bias\)"),
        (nn.Linear(6, 5), r"holds torch\.nn\.modules\.linear\.Linear, which may be code"),
        (Evil(), r"which may be code"),
    ],
)
def test_what_is_no_head(content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content, tmp_path / "head.pth")
    with pytest.raises(ConfigError, match=rf"^model\.head: .*{message}"):
        read_probe(tmp_path / "head.pth")
    assert not capsys.readouterr().out


def test_damaged_files(tmp_path: Path) -> None:
    for name, content in (
        ("a.safetensors", b"\x08"),
        ("b.pth", b"PK\x03\x04"),
        ("c.pth", b""),
        ("d", b"\x00" * 8 + b"{}"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=rf"^model\.head: .*{name}' is neither safetensors nor a checkpoint"):
            read_probe(tmp_path / name)


def built(path: Path, **options: Any) -> Classifier:
    return build_classifier(
        ModelConfig(backbone="timm:test_resnet", weights="random", image_size=64, head=str(path), **options)
    )


def test_scale(tmp_path: Path) -> None:
    """Logits are the scale times cosines, whatever the rows' lengths; and the fingerprint is of what decides them."""
    weight = torch.randn((4, 96), generator=torch.Generator().manual_seed(1))
    width = timm.create_model("test_resnet", num_classes=0).num_features
    weight = weight[:, :1].expand(-1, width) + torch.randn((4, width), generator=torch.Generator().manual_seed(2))
    torch.save(weight, tmp_path / "texts.pt")
    images = torch.randn((3, 3, 64, 64))
    plain, scaled = built(tmp_path / "texts.pt"), built(tmp_path / "texts.pt", head_scale=100)
    embedding = plain.cut(images).embedding
    cosine = functional.cosine_similarity(embedding[:, None], weight[None], dim=2)
    torch.testing.assert_close(scaled(images), 100 * cosine, rtol=1e-4, atol=1e-4)
    assert scaled.compares_directions
    prints = {built(tmp_path / "texts.pt", head_scale=scale).head_fingerprint for scale in (1, 100, 101)}
    assert len(prints | {plain.head_fingerprint}) == 4
    # The same from a file that says it itself.
    unit = functional.normalize(weight, dim=1)
    save_file({"weight": unit}, str(tmp_path / "own.safetensors"), {"normalize": "true", "scale": "100.0"})
    own = built(tmp_path / "own.safetensors")
    assert torch.equal(own(images), scaled(images))
    assert own.head_fingerprint == scaled.head_fingerprint
    save_file({"weight": unit}, str(tmp_path / "own.safetensors"), {"normalize": "true"})
    before = built(tmp_path / "own.safetensors").head_fingerprint
    save_file({"weight": unit}, str(tmp_path / "own.safetensors"), {"normalize": "true", "scale": "1"})
    assert built(tmp_path / "own.safetensors").head_fingerprint == before


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "hundred"])
def test_scales_that_are_none(scale: str, tmp_path: Path) -> None:
    save_file({"weight": WEIGHT}, str(tmp_path / "h.safetensors"), {"scale": scale})
    with pytest.raises(ConfigError, match=r"^model\.head: .*metadata"):
        read_probe(tmp_path / "h.safetensors")


def test_a_scale_is_written_as_it_is_read(tmp_path: Path) -> None:
    for scale in (1.0, 14.25):
        content = probe_bytes(LinearHead(WEIGHT, BIAS, scale, normalize=True), list("abcde"), {})
        (tmp_path / "h.safetensors").write_bytes(content)
        head, names = read_probe(tmp_path / "h.safetensors")
        assert (head.scale.item(), head.normalize, names) == (scale, True, [*"abcde"])
        assert (b'"scale"' in content) == (scale != 1)


def test_a_scale_needs_a_file() -> None:
    for head in ("native", "none", "text"):
        with pytest.raises(ValueError, match="head_scale is of a head that is a file"):
            ModelConfig(backbone="open_clip:ViT-B-32", weights="random", classes=["a", "b"], head=head, head_scale=10)


def test_heads_that_are_there_already_keep_their_fingerprints(tmp_path: Path) -> None:
    """As version 0.1 wrote them into manifests."""
    weight, metadata = torch.arange(30.0).reshape(5, 6), {"classes": json.dumps([*"abcde"])}
    for tensors, normalize, known in (
        ({"weight": weight, "bias": torch.arange(5.0)}, False, "6d312dec7f01087d"),
        ({"weight": weight}, True, "6dd34e0bfebd9d2a"),
    ):
        save_file(tensors, str(tmp_path / "h.safetensors"), metadata | {"normalize": json.dumps(normalize)})
        head, names = read_probe(tmp_path / "h.safetensors")
        assert fingerprint(head.state_dict(), str(head.normalize), *names or ()) == known
