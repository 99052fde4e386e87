"""Preprocessing of weights from a file: what their tags, or a config beside them, say of mean, std and resizing."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, list_pretrained

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import Transform
from finer_ray.models import build_classifier, openclip_backbone, timm_backbone
from finer_ray.models.preprocessing import agreed, with_preprocessing

HALF = (0.5, 0.5, 0.5)
KEYS = ("mean", "std", "resize", "interpolation")


def settled(library: Any, name: str, folder: Path, **options: Any) -> ModelConfig:
    """The config of weights from a file of this backbone, without any weights."""
    prefix = "open_clip" if library is openclip_backbone else "timm"
    config = ModelConfig(backbone=f"{prefix}:{name}", weights=str(folder / "w.safetensors"), **options)
    return with_preprocessing(config, library._beside(folder / "w.safetensors", name), library._published(name))


def by_key(config: ModelConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in KEYS}


def published() -> Iterator[tuple[Any, str, list[dict[str, Any]]]]:
    """Every backbone with weights, and what the library says of each of its tags."""
    for model in open_clip.list_models():
        if tags := open_clip.list_pretrained_tags_by_model(model):
            told = [{**asdict(PreprocessCfg()), **(open_clip.get_pretrained_cfg(model, tag) or {})} for tag in tags]
            yield openclip_backbone, model, [{**one, "resize": one["resize_mode"]} for one in told]
    names: dict[str, list[str]] = defaultdict(list)
    for full in list_pretrained():
        names[full.partition(".")[0]].append(full)
    for name, tags in names.items():
        described = [get_pretrained_cfg(full) for full in tags]
        modes = {"center": "shortest", "border": "pad"}
        yield (
            timm_backbone,
            name,
            [{**one.to_dict(), "resize": modes.get(one.crop_mode, one.crop_mode)} for one in described],
        )


def test_every_published_backbone(tmp_path: Path) -> None:
    """By configs alone: what all tags agree in is taken, and what they differ in is asked for, with its values."""
    taken = asked = unlike_default = 0
    for library, name, tags in published():
        values = {key: {tuple(v) if isinstance(v := tag[key], list) else v for tag in tags} for key in KEYS}
        differing = [key for key in KEYS if len(values[key]) > 1]
        if differing:
            asked += 1
            with pytest.raises(ConfigError) as caught:
                settled(library, name, tmp_path)
            for key in KEYS:
                assert (f"model.{key} (" in str(caught.value)) == (key in differing), (name, str(caught.value))
            assert len(str(caught.value)) < 1500
            answers = {key: min(values[key], key=str) for key in differing}
            found = by_key(settled(library, name, tmp_path, **answers))
            assert all(found[key] == answers.get(key, next(iter(values[key]))) for key in KEYS), name
            continue
        taken += 1
        found = by_key(settled(library, name, tmp_path))
        expected = {key: next(iter(values[key])) for key in KEYS}
        assert found == expected, name
        if library is openclip_backbone:
            default = asdict(PreprocessCfg())
            unlike_default += any(expected[k] != default["resize_mode" if k == "resize" else k] for k in KEYS)
    assert (taken, asked) > (1000, 40)
    assert unlike_default >= 50


def test_siglip_from_a_file_is_seen_as_its_tag_is(tmp_path: Path) -> None:
    found = settled(openclip_backbone, "ViT-B-16-SigLIP", tmp_path, head="text", classes=["a", "b"])
    assert by_key(found) == {"mean": HALF, "std": HALF, "resize": "squash", "interpolation": "bicubic"}
    own = settled(openclip_backbone, "ViT-B-16-SigLIP", tmp_path, mean=(0.1, 0.2, 0.3), head="none", classes=["a"])
    assert by_key(own) == {"mean": (0.1, 0.2, 0.3), "std": HALF, "resize": "squash", "interpolation": "bicubic"}


def test_a_vit_of_many_tags_asks_for_mean_and_std_with_their_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(timm_backbone, "vit_base_patch16_224", tmp_path)
    text = str(caught.value)
    assert "set model.mean ([0.5, 0.5, 0.5]: augreg2_in21k_ft_in1k, augreg_in1k, augreg_in21k, ...; " in text
    assert "[0.485, 0.456, 0.406]: dino, mae" in text
    assert "model.std (" in text
    # A tag in the backbone's name says which one the file is.
    named = settled(timm_backbone, "vit_base_patch16_224.dino", tmp_path)
    assert named.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("nested", [True, False])
def test_a_timm_config_beside_the_file_goes_before_the_tags(nested: bool, tmp_path: Path) -> None:
    told = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.4, 0.4], "crop_mode": "squash"}
    tree = {"architecture": "test_resnet", **({"pretrained_cfg": told} if nested else told)}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    config = ModelConfig(backbone="timm:test_resnet", weights=str(tmp_path / "w.safetensors"), std=HALF)
    expected = Transform((160, 160), "squash", 0.95, "bilinear", (0.1, 0.2, 0.3), HALF)
    assert build_classifier(config).transform == expected
    # That of another architecture says nothing of this file.
    (tmp_path / "config.json").write_text(json.dumps({**tree, "architecture": "test_vit"}))
    assert build_classifier(config).transform.mean == HALF


def test_an_open_clip_config_beside_the_file_goes_before_the_tags(tmp_path: Path) -> None:
    told = {"mean": [0.1, 0.2, 0.3], "interpolation": "bilinear"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": told}))
    found = settled(openclip_backbone, "ViT-B-16-SigLIP", tmp_path, head="text", classes=["a", "b"])
    # What it leaves open is open_clip's default.
    expected = {"std": PreprocessCfg().std, "resize": "shortest"}
    assert by_key(found) == {"mean": (0.1, 0.2, 0.3), "interpolation": "bilinear", **expected}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json', beside the file, cannot be read as JSON"),
        (json.dumps({"architecture": "test_resnet", "mean": [0.5]}), r"has no usable mean .*set model\.mean"),
        (
            json.dumps({"architecture": "test_resnet", "interpolation": "random"}),
            r"has no usable interpolation .*set model\.interpolation",
        ),
    ],
)
def test_configs_beside_the_file_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        settled(timm_backbone, "test_resnet", tmp_path)


def test_a_backbone_without_published_weights_has_the_default(tmp_path: Path) -> None:
    for library, name in ((openclip_backbone, "ViT-S-32"), (timm_backbone, "vit_pwee_patch16_reg1_gap_256")):
        if library is timm_backbone and timm.list_pretrained(f"{name}.*"):
            name = next(model for model in timm.list_models() if not timm.list_pretrained(f"{model}.*"))
        assert set(by_key(settled(library, name, tmp_path, head="none", classes=["a"])).values()) == {None}


def test_random_weights_keep_the_default() -> None:
    model = build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random"))
    assert (model.transform.mean, model.transform.interpolation) == (HALF, "bilinear")


@pytest.mark.parametrize(("backbone", "tag"), [("open_clip:ViT-B-16-SigLIP", "webli"), ("timm:test_vit", "r160_in1k")])
def test_weights_that_cannot_be_fetched_come_with_what_to_set(
    backbone: str, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(*given: Any, **rest: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ConfigError, match=r"give the file's path, with model\.mean: \[0\.5, 0\.5, 0\.5\], .*resize"):
        build_classifier(ModelConfig(backbone=backbone, weights=tag, head="none", classes=["a", "b"]))


def test_random_open_clip_weights_are_prepared_as_all_published_ones() -> None:
    """open_clip's own default is CLIP's, which is right for no SigLIP."""
    found = agreed(openclip_backbone._published("ViT-B-16-SigLIP"))
    assert found == {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize": "squash", "interpolation": "bicubic"}
    assert "mean" not in agreed({"a": {"mean": (0.5,)}, "b": {"mean": (0.4,)}, "c": {}})
