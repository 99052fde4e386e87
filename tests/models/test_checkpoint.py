"""Checkpoints: what trainings and tools put around weights, and files that are none."""

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier
from finer_ray.models.checkpoint import MAX_NAME, package_path, read_checkpoint

State = dict[str, Tensor]
IMAGES = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))


def timm_state(classes: int = 5) -> State:
    torch.manual_seed(3)
    return dict(timm.create_model("test_resnet", num_classes=classes).state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def others(state: State) -> State:
    """Weights that nobody wants: a mean of past ones."""
    return {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}


ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 0.1}]}
LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "data-parallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: {"state_dict": prefixed(s, "_orig_mod.")},
    "compiled inside": lambda s: {"state_dict": prefixed(s, "net._orig_mod.")},
    "both": lambda s: prefixed(s, "module._orig_mod."),
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "optimizer_states": [ADAM], "epoch": 3},
    "lightning with a loss": lambda s: {
        "state_dict": prefixed(s, "model.") | {"criterion.weight": torch.ones(5), "val_loss.total": torch.ones(1)}
    },
    "lightning with a mean": lambda s: {"state_dict": prefixed(s, "net.") | prefixed(others(s), "ema_net.")},
    "wrapped twice": lambda s: {"state_dict": prefixed(s, "model.backbone.")},
    "an unknown wrapper": lambda s: {"state_dict": prefixed(s, "classifier_of_mine.")},
    "a mean alone": lambda s: {"state_dict_ema": s, "epoch": 1},
    "weights and their mean": lambda s: {"state_dict": s, "state_dict_ema": others(s)},
    "the other way round": lambda s: {"model_ema": others(s), "model": s},
    "nested": lambda s: {"net": {"state_dict": s}, "optimizer": ADAM, "epoch": torch.tensor(3)},
    "nested with its mean": lambda s: {"net": {"ema": others(s), "weights": collections.OrderedDict(s)}},
    "a model's name": lambda s: {"model": "test_resnet", "weights": s},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_trainings_put_around_a_timm_model(layout: str, tmp_path: Path) -> None:
    state = timm_state()
    torch.save(LAYOUTS[layout](state), tmp_path / "w.pth")
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights=str(tmp_path / "w.pth"), image_size=64))
    theirs = timm.create_model("test_resnet", num_classes=5).eval()
    theirs.load_state_dict(state)
    torch.testing.assert_close(model(IMAGES), theirs(IMAGES), rtol=1e-4, atol=1e-5)
    # Without the classifier, whose names are left over.
    bare = ModelConfig(
        backbone="timm:test_resnet", weights=str(tmp_path / "w.pth"), image_size=64, head="none", classes=["a", "b"]
    )
    expected = theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(build_classifier(bare).split.embed(IMAGES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_trainings_put_around_an_open_clip_model(layout: str, tmp_path: Path, clip: str) -> None:
    options: dict[str, Any] = {"backbone": clip, "head": "text", "classes": ["crow", "rook"]}
    plain = build_classifier(ModelConfig(**options, weights="random", seed=5))
    state = _open_clip_state(clip, 5)
    torch.save(LAYOUTS[layout](state), tmp_path / "w.pt")
    model = build_classifier(ModelConfig(**options, weights=str(tmp_path / "w.pt")))
    assert torch.equal(model(IMAGES), plain(IMAGES))
    assert model.model_fingerprint == plain.model_fingerprint


def _open_clip_state(clip: str, seed: int) -> State:
    import open_clip

    torch.manual_seed(seed)
    return dict(open_clip.create_model(clip.removeprefix("open_clip:"), pretrained=None).state_dict())


def test_an_open_clip_model_of_another_size_has_its_positions_resized(tmp_path: Path, clip: str) -> None:
    """As open_clip's own loader does, whether the names are wrapped or not."""
    import open_clip

    state = _open_clip_state(clip, 5)
    options: dict[str, Any] = {"backbone": clip, "head": "text", "classes": ["crow", "rook"], "image_size": 96}
    torch.save(state, tmp_path / "plain.pt")
    torch.save(prefixed(state, "model."), tmp_path / "wrapped.pt")
    theirs = open_clip.create_model(clip.removeprefix("open_clip:"), pretrained=None, force_image_size=96).eval()
    open_clip.load_checkpoint(theirs, str(tmp_path / "plain.pt"))
    images = torch.randn((2, 3, 96, 96), generator=torch.Generator().manual_seed(1))
    for name in ("plain.pt", "wrapped.pt"):
        model = build_classifier(ModelConfig(**options, weights=str(tmp_path / name)))
        torch.testing.assert_close(model.split.embed(images), theirs.encode_image(images), rtol=1e-4, atol=1e-5)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 3), torch.zeros(1, 3)), path)


REFUSED: dict[str, tuple[Callable[[State, Path], Any], str]] = {
    "a script": (lambda s, p: _script(p), r"is a TorchScript archive, which is code: load it elsewhere.*safetensors"),
    "integers": (
        lambda s, p: torch.save({n: (100 * v).to(torch.int8) if v.ndim > 1 else v for n, v in s.items()}, p),
        r"holds integers \(torch\.int8\) in \d+ tensors .*dequantise",
    ),
    "two models": (
        lambda s, p: torch.save({"student": s, "teacher": s}, p),
        r"holds several dicts of tensors \(student, teacher\): save",
    ),
    "two prefixes": (
        lambda s, p: torch.save(prefixed(s, "student.") | prefixed(s, "teacher."), p),
        r"does not fit the backbone: \d+ tensors missing .*not wanted \(student\.",
    ),
    "a part of a larger model": (
        lambda s, p: torch.save(prefixed(s, "model.") | {"extra.weight": torch.ones(2, 2)}, p),
        r"most of its names begin with 'model\.': save the backbone's state_dict alone",
    ),
    "nothing": (lambda s, p: torch.save({"epoch": 3}, p), "holds no tensors by name"),
    "a list": (lambda s, p: torch.save([torch.ones(3)], p), "holds no tensors by name"),
    "text": (lambda s, p: p.write_text("<!DOCTYPE html>"), "no checkpoint that torch loads"),
    "an empty file": (lambda s, p: p.write_bytes(b""), "nor a checkpoint that torch loads"),
    "long names": (
        lambda s, p: torch.save({"x" * 100_000: torch.ones(2, 2)}, p),
        f"not wanted \\(x{{{MAX_NAME}}}\\)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_what_is_no_checkpoint_of_the_backbone_is_refused_in_words(
    kind: str, library: str, tmp_path: Path, clip: str
) -> None:
    write, message = REFUSED[kind]
    path = tmp_path / "ViT-B-32.pt"
    write(timm_state() if library == "timm" else _open_clip_state(clip, 1), path)
    names: dict[str, Any] = {"classes": ["a", "b"], "head": "none"}
    backbone = "timm:test_resnet" if library == "timm" else clip
    with pytest.raises(ConfigError, match=message) as caught:
        build_classifier(ModelConfig(backbone=backbone, weights=str(path), **names))
    assert "weights_only=False" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert str(caught.value).startswith("model.weights: ")


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("timm:resnet18.tv_in1k", "tv_in1k", r"write model\.backbone: timm:resnet18 and model\.weights: tv_in1k"),
        ("timm:resnet18.tv_in2k", "random", r"timm:resnet18 has no pretrained tag 'tv_in2k' \(nearest: tv_in1k"),
    ],
)
def test_full_names_of_other_libraries(backbone: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_classifier(ModelConfig(backbone=backbone, weights=weights, head="none", classes=["a", "b"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("package:os/x", "'os' is not a package"),
        ("package:json.decoder/x", "'json.decoder' is not a package"),
        ("package:__main__/x", "'__main__' is not a package"),
        ("package:/etc/passwd", "'' is not a package"),
        ("package:../x", r"'\.\.' is not a package"),
        ("package:torch/../../x", "leaves the package"),
        ("package:torch//etc/passwd", "leaves the package"),
        ("package:torch/a/../../b", "leaves the package"),
        ("package:no_such_package/x", "no Python package 'no_such_package' is installed"),
    ],
)
def test_places_that_no_package_has(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.weights: .*{message}"):
        package_path(text, "model.weights")


def test_a_place_in_a_package() -> None:
    found = package_path("package:timm/layers/__init__.py", "model.weights")
    assert found is not None
    assert found.is_file()


def test_a_checkpoint_is_read_in_its_order(tmp_path: Path) -> None:
    state = {"b": torch.ones(2), "a": torch.zeros(3), "_orig_mod.c": torch.ones(1)}
    torch.save({"model": state}, tmp_path / "w.pt")
    assert [*read_checkpoint(tmp_path / "w.pt")] == ["b", "a", "c"]
