"""Models: cuts that compute what the library does, heads, checkpoints, names."""

import json
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import ClassNames, build_classifier
from finer_ray.saliency import SaliencySpec, explain

HEADLESS: dict[str, Any] = {"head": "none", "classes": ["a", "b"]}
TOWERS: dict[str, dict[str, Any]] = {
    "tok": {"layers": 3, "width": 64, "patch_size": 16, "head_width": 32},
    "avg": {"layers": 3, "width": 64, "patch_size": 16, "head_width": 32, "pool_type": "avg"},
    "late": {"layers": 2, "width": 64, "patch_size": 16, "head_width": 32, "final_ln_after_pool": True},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "timm": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
    "timm_vit": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tiny open_clip models, registered under the names tiny-*."""
    folder = tmp_path_factory.mktemp("configs")
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    for name, vision in TOWERS.items():
        size = 160 if name == "timm_vit" else 64
        tree = {"embed_dim": 24, "vision_cfg": {"image_size": size, **vision}, "text_cfg": text}
        (folder / f"tiny-{name}.json").write_text(json.dumps(tree))
    open_clip.add_model_config(folder)


@pytest.mark.parametrize("tower", TOWERS)
def test_open_clip_towers_with_a_text_head(tower: str) -> None:
    config = ModelConfig(
        backbone=f"open_clip:tiny-{tower}", weights="random", head="text", classes=["cat", "dog", "bird", "fish"]
    )
    model = build_classifier(config)
    x = torch.randn((3, 3, *model.transform.size), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        theirs = open_clip.create_model(f"tiny-{tower}", pretrained=None).eval()
    tokens = open_clip.get_tokenizer(f"tiny-{tower}")([f"a photo of a {c}." for c in config.classes or ()])
    with torch.no_grad():
        image, text = theirs.encode_image(x, normalize=True), theirs.encode_text(tokens, normalize=True)
        expected = theirs.logit_scale.exp() * image @ text.T
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    result = explain(model, x, SaliencySpec())
    assert result.references.shape == (3, 3)
    assert result.basis.shape[2:] == model.grid_size
    assert result.maps.isfinite().all()


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_native_sizes_are_the_librarys(name: str) -> None:
    """A ViT keeps the position embeddings of its own size, and resamples them for each."""
    config = ModelConfig(
        backbone=f"timm:{name}", weights="random", image_size=100, resize="native", head="none", classes=["a", "b"]
    )
    model = build_classifier(config)
    step = model.split.multiple
    assert model.transform.size == (100 // step[0] * step[0], 100 // step[1] * step[1])
    options = {} if "resnet" in name else {"dynamic_img_size": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = timm.create_model(name, num_classes=0, **options).eval()
    for height, width in ((1, 2), (2, 1), (2, 2)):
        x = torch.randn((2, 3, height * step[0], width * step[1]), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.split.embed(x), theirs(x), rtol=1e-4, atol=1e-5)
        assert explain(model, x, SaliencySpec()).maps.shape[2:] == (height, width)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_vit2", "test_efficientnet", "convnext_atto"])
def test_native_logits_are_the_librarys(name: str) -> None:
    model = build_classifier(ModelConfig(backbone=f"timm:{name}", weights="random", seed=4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        theirs = timm.create_model(name).eval()
    x = torch.randn((2, 3, *model.transform.size), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "timm:resnet5O"}, r"model\.backbone.*nearest: resnet50"),
        ({"backbone": "open_clip:ViT-B-61", "head": "x.safetensors"}, r"model\.backbone.*nearest: ViT-B-16"),
        ({"backbone": "timm:coat_lite_mini"}, r"model\.backbone.*cannot be explained.*model\.cam_layer"),
        ({"backbone": "timm:resnet18", "weights": "a1_in1"}, r"model\.weights.*nearest: a1_in1k"),
        ({"weights": "no/such.safetensors"}, r"model\.weights: no file"),
        ({"weights": "package:no_such_package/x"}, r"no Python package 'no_such_package'"),
        ({"head": "no.safetensors"}, r"model\.head"),
        ({"backbone": "open_clip:tiny-tok"}, r"no native classifier"),
        ({"classes": ["a", "b"]}, r"2 names for a head with 1000 classes"),
        ({"classes": "no.txt"}, r"model\.classes"),
        ({"pool": "avg"}, r"model\.pool"),
        ({"backbone": "timm:mixer_s32_224", "resize": "native"}, r"model\.resize: native .* has no dynamic_img_size"),
        (
            {"backbone": "open_clip:tiny-tok", **HEADLESS, "resize": "native"},
            r"model\.resize: native .*use pad, shortest",
        ),
        (
            {"backbone": "open_clip:tiny-resnet", **HEADLESS, "resize": "native"},
            r"model\.resize: native .*\(at 64x32: The size",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_classifier(ModelConfig(**{"backbone": "timm:test_resnet", "weights": "random", **options}))


def test_probe_files(tmp_path: Path) -> None:
    weight, bias = torch.randn((3, 384)), torch.randn(3)
    path = tmp_path / "probe.safetensors"
    names = ["a", "b", "c"]
    base: dict[str, Any] = {"backbone": "timm:vit_small_patch14_dinov2", "weights": "random", "image_size": 28}
    save_file({"weight": weight, "bias": bias}, str(path), {"classes": json.dumps(names)})
    model = build_classifier(ModelConfig(**base, head=str(path)))
    assert model.classes.names == ("a", "b", "c")
    x = torch.randn((2, 3, 28, 28))
    embedding = model.cut(x).embedding
    torch.testing.assert_close(model(x), embedding @ weight.T + bias)
    save_file({"weight": weight}, str(path), {"normalize": "true"})
    unit = build_classifier(ModelConfig(**base, head=str(path)))
    torch.testing.assert_close(unit(x), torch.nn.functional.normalize(embedding, dim=1) @ weight.T)
    assert unit.head_fingerprint != model.head_fingerprint
    assert unit.model_fingerprint == model.model_fingerprint
    save_file({"weight": torch.randn((3, 7))}, str(path))
    with pytest.raises(ConfigError, match="embeddings of 7"):
        build_classifier(ModelConfig(**base, head=str(path)))
    save_file({"weights": weight}, str(path))
    with pytest.raises(ConfigError, match="needs a tensor `weight`"):
        build_classifier(ModelConfig(**base, head=str(path)))


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("evil-was-here"),)  # type: ignore[return-value]


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = timm.create_model("test_resnet", num_classes=5).eval()
    state = theirs.state_dict()
    save_file(state, "named.safetensors")
    torch.save({"state_dict": state}, "wrapped.pth")
    torch.save({f"x{i}": value for i, value in enumerate(state.values())}, "ordered.pt")
    x = torch.randn((2, 3, 160, 160))
    for file, match in (("named.safetensors", "name"), ("wrapped.pth", "name")):
        config = ModelConfig(backbone="timm:test_resnet", weights=file, match=match)  # type: ignore[arg-type]
        torch.testing.assert_close(build_classifier(config)(x), theirs(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="match: order"):
        build_classifier(ModelConfig(backbone="timm:test_resnet", weights="ordered.pt"))
    with pytest.raises(ConfigError, match="matched by order"):
        build_classifier(ModelConfig(backbone="timm:test_resnet", weights="ordered.pt", match="order"))
    Path("evil.pth").write_bytes(pickle.dumps({"weight": Evil()}))
    torch.save({"weight": Evil()}, "evil2.pth")
    for file in ("evil.pth", "evil2.pth"):
        with pytest.raises(ConfigError, match="weights_only"):
            build_classifier(ModelConfig(backbone="timm:test_resnet", weights=file))
    assert not Path("evil-was-here").exists()


def test_fingerprints_tell_models_apart() -> None:
    prints = {
        build_classifier(ModelConfig(backbone="timm:test_resnet", weights="random", **options)).model_fingerprint
        for options in ({}, {}, {"seed": 1}, {"crop_pct": 0.5}, {"image_size": 96})  # type: ignore[arg-type]
    }
    assert len(prints) == 4


def test_imagenet_names() -> None:
    names = ClassNames.imagenet()
    assert len(names) == len(set(names.names)) == 1000
    known = timm.data.ImageNetInfo()
    for index, name in enumerate(names.names):
        assert known.index_to_description(index).startswith(name.partition(" (n0")[0])
        assert names.index(known.index_to_label_name(index)) == index
    assert names.index("tench") == names.index("Tinca tinca") == names.index("n01440764") == names.index(0) == 0
    with pytest.raises(LookupError, match="no class is called 'crane'"):
        names.index("crane")
    with pytest.raises(LookupError, match=r"nearest: .*goldfinch"):
        names.index("goldfinc")
    for index in (-1, 1000):
        with pytest.raises(LookupError, match="out of range"):
            names.index(index)


@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_resnet", "open_clip:tiny-tok"])
def test_without_a_head_the_embedding_is_all_there_is(backbone: str, tmp_path: Path) -> None:
    size = None if backbone.startswith("open_clip") else 64
    bare = build_classifier(
        ModelConfig(backbone=backbone, weights="random", image_size=size, head="none", classes=["a", "b", "c"])
    )
    images = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(bare(images), torch.zeros(2, 3))
    explanation = explain(bare, images, SaliencySpec())
    assert explanation.maps.abs().max() == 0

    probe = tmp_path / "probe.safetensors"
    save_file({"weight": torch.randn(3, bare.embedding_size)}, probe)
    headed = build_classifier(ModelConfig(backbone=backbone, weights="random", image_size=size, head=str(probe)))
    assert headed.model_fingerprint == bare.model_fingerprint
    assert torch.equal(explanation.embedding, explain(headed, images, SaliencySpec()).embedding)
    with pytest.raises(ValueError, match=r"head: none needs model\.classes"):
        ModelConfig(backbone=backbone, weights="random", head="none")


def test_a_checkpoint_matched_by_order_may_have_a_classifier_that_is_not_wanted(tmp_path: Path) -> None:
    theirs = timm.create_model("test_resnet").eval()
    images = torch.randn(2, 3, 64, 64)
    for name, state in (
        ("whole", theirs.state_dict()),
        ("bare", timm.create_model("test_resnet", num_classes=0).state_dict()),
    ):
        path = tmp_path / f"{name}.pt"
        torch.save({f"other.{i}": value for i, value in enumerate(state.values())}, path)
        config = ModelConfig(
            backbone="timm:test_resnet",
            weights=str(path),
            match="order",
            image_size=64,
            head="none",
            classes=["a", "b"],
        )
        model = build_classifier(config)
        assert model.embedding_size == theirs.num_features
        if name == "whole":
            expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
            torch.testing.assert_close(model.split.embed(images), expected)
