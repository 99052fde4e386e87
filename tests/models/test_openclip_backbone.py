"""open_clip backbones: the activation that weights were trained with."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import build_classifier, openclip_backbone

PAIRS = [(model, tag) for model, tag in open_clip.list_pretrained() if model in open_clip.list_models()]


def quick(model: str) -> bool:
    return bool((open_clip.get_model_config(model) or {}).get("quick_gelu", False))


@pytest.fixture
def only_named(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What open_clip would be asked to make; nothing is made or downloaded."""
    made: list[tuple[str, str]] = []

    def create(name: str, pretrained: str, **rest: Any) -> None:
        made.append((name, pretrained))
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", create)
    return made


def test_every_published_pair_has_its_activation_or_is_refused(only_named: list[tuple[str, str]]) -> None:
    """By configs alone: no weights are fetched."""
    refused = {}
    for model, tag in PAIRS:
        with pytest.raises(ConfigError) as caught:
            build_classifier(ModelConfig(backbone=f"open_clip:{model}", weights=tag, head="text", classes=["a", "b"]))
        text = str(caught.value)
        if "cannot be made" not in text:
            refused[model, tag] = text
    for model, tag in PAIRS:
        wanted = bool((open_clip.get_pretrained_cfg(model, tag) or {}).get("quick_gelu", False))
        if (model, tag) == ("roberta-ViT-B-32", "laion2b_s12b_b32k"):
            # Its only form has QuickGELU, and the tag says nothing of it.
            assert (model, tag) in only_named
        elif wanted == quick(model):
            assert (model, tag) in only_named
        else:
            assert (model, tag) not in only_named
            right = refused[model, tag].rsplit("open_clip:", 1)[1]
            assert quick(right) == wanted, (model, tag, right)
            assert tag in open_clip.list_pretrained_tags_by_model(right)
    assert len(refused) >= 27
    assert "'openai' were trained with QuickGELU" in refused["ViT-B-16", "openai"]
    assert refused["ViT-B-16", "openai"].endswith("use model.backbone open_clip:ViT-B-16-quickgelu")


def test_the_other_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were trained with GELU, under a model with QuickGELU: open_clip lists none today."""
    with pytest.raises(ConfigError, match=r"trained with GELU, .*use model\.backbone open_clip:ViT-B-32$"):
        openclip_backbone.check_activation("ViT-B-32-quickgelu", False, "'x'")


def test_a_config_beside_a_file_tells_its_activation(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    options: dict[str, Any] = {"weights": str(tmp_path / "w.safetensors"), "head": "text", "classes": ["a", "b"]}
    with pytest.raises(ConfigError, match=r"w\.safetensors' were trained with QuickGELU.*ViT-B-32-quickgelu"):
        build_classifier(ModelConfig(backbone="open_clip:ViT-B-32", **options))
    # Under the right name the file itself is looked at.
    with pytest.raises(ConfigError, match="neither safetensors"):
        build_classifier(ModelConfig(backbone="open_clip:ViT-B-32-quickgelu", **options))


def test_both_towers_have_the_activation_of_a_quickgelu_model() -> None:
    """What refusals send to."""
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    for tower in (model.visual.transformer, model.transformer):
        assert type(tower.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
        assert not isinstance(tower.resblocks[0].mlp.gelu, torch.nn.GELU)
