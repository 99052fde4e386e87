"""`model.kwargs`: what reaches the library, what is refused, and what the fingerprints say of it."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from finer_ray.config.loading import parse_config
from finer_ray.config.schema import ModelConfig, fingerprinted
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier


def model(backbone: str, **options: Any) -> ModelConfig:
    return ModelConfig(backbone=backbone, **{"weights": "random", **options})


def test_padding_as_the_weights_were_trained_with() -> None:
    same = build_classifier(model("timm:efficientnet_lite0", image_size=64, kwargs={"pad_type": "same"}))
    theirs = build_classifier(model("timm:tf_efficientnet_lite0", image_size=64))
    usual = build_classifier(model("timm:efficientnet_lite0", image_size=64))
    for other in (same, usual):
        other.split.load_state_dict(theirs.split.state_dict())
        other.head.load_state_dict(theirs.head.state_dict())
        # The other thing in which TensorFlow's differ.
        for norm in filter(lambda module: isinstance(module, nn.BatchNorm2d), other.split.modules()):
            norm.eps = 1e-3
    x = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(same(x), theirs(x), rtol=1e-3, atol=1e-4)
    assert (usual(x) - theirs(x)).abs().max() > 1e-3 * theirs(x).abs().max()
    assert same.model_fingerprint != usual.model_fingerprint


def test_sizes_by_kwargs() -> None:
    made = build_classifier(model("timm:vit_tiny_patch16_224", kwargs={"img_size": 64}))
    assert (made.transform.size, made.grid_size) == ((64, 64), (4, 4))
    made = build_classifier(model("timm:vit_tiny_patch16_224", image_size=[64, 96], kwargs={"dynamic_img_size": True}))
    assert made.grid_size == (4, 6)
    # The weights keep the size that they were trained with; the model resamples them.
    assert made.split.encoder.pos_embed.shape[1] == timm.create_model("vit_tiny_patch16_224").pos_embed.shape[1]


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("timm:test_resnet", {"pad_tpe": 1}, r"model\.kwargs: timm:test_resnet takes no 'pad_tpe'"),
        ("timm:test_efficientnet", {"pad_tpe": "same"}, r"takes no 'pad_tpe' \(nearest: pad_type"),
        ("timm:test_vit", {"img_sise": 64}, r"takes no 'img_sise' \(nearest: img_size"),
        ("timm:test_vit", {"num_classes": 4}, r"num_classes cannot be given: model\.head decides it"),
        ("timm:test_vit", {"checkpoint_path": "x"}, r"checkpoint_path cannot be given: model\.weights decides it"),
        ("timm:test_vit", {"pretrained": True}, r"pretrained cannot be given: model\.weights decides it"),
        ("timm:test_vit", {"pretrained_cfg": "x"}, r"pretrained_cfg cannot be given"),
        ("timm:test_vit", {"cache_dir": "/tmp"}, r"cache_dir cannot be given"),
        ("timm:test_vit", {"in_chans": 4}, r"in_chans cannot be given: the photos"),
        ("timm:test_vit", {"depth": "many"}, r"model\.kwargs: timm:test_vit cannot be made with \{'depth': 'many'\}"),
        ("open_clip:ViT-B-32", {"force_quick_gelo": True}, r"takes no 'force_quick_gelo' \(nearest: force_quick_gelu"),
        ("open_clip:ViT-B-32", {"pretrained_image_path": "x"}, r"takes no 'pretrained_image_path'"),
    ],
)
def test_what_is_not_the_librarys_is_refused(backbone: str, options: dict[str, Any], message: str) -> None:
    text = {"head": "text", "classes": ["a", "b"]} if backbone.startswith("open_clip") else {}
    with pytest.raises(ConfigError, match=message):
        build_classifier(model(backbone, kwargs=options, **text))


def test_size_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.kwargs: img_size and model\.image_size both give the size"):
        build_classifier(model("timm:test_vit", image_size=64, kwargs={"img_size": 64}))


def test_only_plain_values() -> None:
    tree = {"input": {"shards": "x"}, "output": {"url": "y"}}
    for value in ({"a": 1}, [[1]], None):
        with pytest.raises(ConfigError, match=r"model\.kwargs"):
            parse_config({**tree, "model": {"backbone": "timm:x", "weights": "random", "kwargs": {"a": value}}})


def test_fingerprints_know_kwargs_only_where_there_are_some() -> None:
    tree: dict[str, Any] = {"input": {"shards": "x"}, "output": {"url": "y"}}
    base = {"backbone": "timm:test_resnet", "weights": "random"}
    plain = parse_config({**tree, "model": base})
    assert parse_config({**tree, "model": {**base, "kwargs": {}}}).fingerprint() == plain.fingerprint()
    assert parse_config({**tree, "model": {**base, "kwargs": {"a": 1}}}).fingerprint() != plain.fingerprint()
    # As in exports of earlier versions.
    assert "kwargs" not in fingerprinted(plain.model_dump(mode="json"))["model"]
