"""torchvision and transformers: every kind of tail against float64 autograd through the library's own forward, with
random weights; weights, classes and preprocessing as the libraries themselves read them."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.images.transform import Transform
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.classes import ClassNames
from finer_ray.models.head import LinearHead
from finer_ray.models.preparing import autocast, prepare
from finer_ray.models.torchvision_split import split_torchvision
from finer_ray.models.transformers_split import TransformersViT
from tests.conftest import photo

BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VIT = {"image_size": 32, "patch_size": 8, **BLOCKS}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4}
NAMES = {"id2label": {0: "finch", 1: "wren", 2: "tern"}, "label2id": {"finch": 0, "wren": 1, "tern": 2}}
TEXT = {"text_config": {**BLOCKS, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}}
# Class, arguments of its config, name of the CAM layer.
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("ViTForImageClassification", VIT, "vit.layers.1.layernorm_before"),
    "deit": ("DeiTForImageClassification", VIT, "deit.layers.1.layernorm_before"),
    "deit-distilled": ("DeiTForImageClassificationWithTeacher", VIT, "deit.layers.1.layernorm_before"),
    "dinov2": ("Dinov2ForImageClassification", VIT, "dinov2.encoder.layer.1.norm1"),
    "registers": ("Dinov2WithRegistersForImageClassification", VIT, "dinov2_with_registers.encoder.layer.1.norm1"),
    "dinov3": ("DINOv3ViTModel", {**VIT, "num_register_tokens": 4}, "model.layer.1.norm1"),
    "beit": (
        "BeitForImageClassification",
        {**VIT, "use_relative_position_bias": True},
        "beit.layers.1.layernorm_before",
    ),
    "clip": (
        "CLIPVisionModelWithProjection",
        {**VIT, "projection_dim": 16},
        "vision_model.encoder.layers.1.layer_norm1",
    ),
    "clip-classifier": (
        "CLIPForImageClassification",
        {"vision_config": VIT, **TEXT},
        "vision_model.encoder.layers.1.layer_norm1",
    ),
    "siglip": ("SiglipVisionModel", VIT, "encoder.layers.1.layer_norm1"),
    "convnext": ("ConvNextForImageClassification", STAGES, "convnext.encoder.stages.3"),
    "resnet": ("ResNetForImageClassification", {**STAGES, "embedding_size": 8}, "resnet.encoder.stages.3"),
    "regnet": (
        "RegNetForImageClassification",
        {**STAGES, "embedding_size": 8, "groups_width": 8},
        "regnet.encoder.stages.3",
    ),
    "swin": ("SwinForImageClassification", SWIN, "swin.layernorm"),
    "swinv2": ("Swinv2ForImageClassification", SWIN, "swinv2.layernorm"),
    "mobilenet": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.25}, "mobilenet_v2.conv_1x1"),
}
PREPARED: dict[str, Any] = {"resize": "squash", "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}


def saved(folder: Path, name: str, **options: Any) -> Path:
    """A folder with a small model of transformers; biases, norms and scales are drawn too."""
    kind = getattr(transformers, MODELS[name][0])
    classes = NAMES if "Classification" in MODELS[name][0] else {}
    torch.manual_seed(2)
    model = drawn(kind(kind.config_class(**MODELS[name][1], **classes)))
    model.save_pretrained(folder, **options)
    return folder


def drawn(model: Any) -> Any:
    """The model with values that no initialisation has, which hides mistakes."""
    generator = torch.Generator().manual_seed(7)
    for tensor in model.parameters():
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        tensor.data = tensor.data + (0.2 if tensor.ndim < 2 else 0.05) * noise
    return model.eval()


def folder_model(folder: Path, **options: Any) -> Classifier:
    return build_classifier(ModelConfig(backbone=f"transformers:local-dir:{folder}", **{**PREPARED, **options}))


def check_against_autograd(model: Classifier, layer: nn.Module, size: tuple[int, int]) -> float:
    """The largest error of activations and gradients, each relative to its maximum, for three classes of two images."""
    model = model.double()
    x = torch.randn((2, 3, *size), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    # Weights that no logit's derivative leaves in one direction.
    rows = torch.randn((3, model.embedding_size), generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    native = model.split(x).shape[1] == model.class_count
    rows = model.head.weight[:3] if native else rows
    cut = model.cut(x)
    ours = cut.gradient(rows.expand(2, 3, -1))
    for parameter in model.split.encoder.parameters():
        parameter.requires_grad_(True)
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _given, output: kept.append(output))
    output = model.split(x)
    handle.remove()
    logits = output if native else output @ rows.T
    theirs = [torch.autograd.grad(logits[:, column].sum(), kept[-1], retain_graph=True)[0] for column in range(3)]
    expected = torch.stack([model.split.grid(gradient, size) for gradient in theirs], dim=1)
    activation = model.split.grid(kept[-1].detach(), size)
    assert expected.abs().max() > 0
    means = model.cut(x).mean_gradient(rows.expand(2, 3, -1))
    torch.testing.assert_close(means, expected.mean((3, 4)), rtol=1e-9, atol=1e-12)
    assert cut.activation.shape[2:] == model.grid_size
    return max(
        ((ours - expected).abs().max() / expected.abs().max()).item(),
        ((cut.activation - activation).abs().max() / activation.abs().max()).item(),
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(64, 64), (64, 96)], ids=["square", "wide"])
def test_models_of_transformers_against_autograd(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    saved(tmp_path, name)
    # Those whose last block is plain are differentiated in closed form.
    closed = name in ("vit", "deit")
    native = "Classification" in MODELS[name][0]
    model = folder_model(tmp_path, image_size=size, **({} if native else {"head": "none", "classes": ["a", "b"]}))
    layer = model.split.encoder.get_submodule(MODELS[name][2])
    assert isinstance(model.split, TransformersViT) == closed
    assert check_against_autograd(model, layer, size) < 1e-10
    assert model.classes.names == (("finch", "wren", "tern") if native else ("a", "b"))


@pytest.mark.parametrize("name", ["dinov2", "siglip", "beit", "convnext"])
def test_half_precision_of_transformers(name: str, tmp_path: Path) -> None:
    """Some ask their patch embedding for the dtype of its weights."""
    saved(tmp_path, name)
    native = "Classification" in MODELS[name][0]
    model = folder_model(tmp_path, image_size=64, **({} if native else {"head": "none", "classes": ["a", "b"]}))
    x = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(5))
    expected = model.cut(x).embedding
    cpu = torch.device("cpu")
    prepare(model, cpu, "bf16")
    with autocast(cpu, "bf16"):
        found = model.cut(x).embedding
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", ["vit", "dinov2", "registers"])
def test_embeddings_of_class_tokens_are_differentiated_in_closed_form(name: str, tmp_path: Path) -> None:
    saved(tmp_path, name)
    model = folder_model(tmp_path, image_size=(64, 96), head="none", classes=["a", "b"])
    assert isinstance(model.split, TransformersViT)
    layer = model.split.encoder.get_submodule(model.split.layer)
    assert check_against_autograd(model, layer, (64, 96)) < 1e-10


@pytest.mark.parametrize("name", ["vit", "dinov2", "resnet", "swin", "clip-classifier", "beit", "deit-distilled"])
def test_logits_and_embeddings_are_the_librarys(name: str, tmp_path: Path) -> None:
    saved(tmp_path, name)
    kind = getattr(transformers, MODELS[name][0])
    theirs = kind.from_pretrained(tmp_path).eval()
    size = 64 if name in ("swin", "resnet") else 32
    x = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(0))
    model = folder_model(tmp_path, image_size=size)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x).logits, rtol=1e-4, atol=1e-5)
    bare = folder_model(tmp_path, image_size=size, head="none", classes=["a", "b"])
    if name == "vit":
        hidden = theirs.vit(x).last_hidden_state[:, 0]
        torch.testing.assert_close(bare.cut(x).embedding, hidden, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_in_a_bin_and_one_elsewhere(tmp_path: Path) -> None:
    saved(tmp_path / "a", "vit")
    expected = folder_model(tmp_path / "a", image_size=32).model_fingerprint
    state = load_file(tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "w.safetensors")
    with pytest.raises(
        ConfigError, match=r"model\.weights: .* has none of the files model\*\.safetensors, pytorch_model"
    ):
        folder_model(tmp_path / "a")
    given = folder_model(tmp_path / "a", image_size=32, weights=str(tmp_path / "w.safetensors"))
    assert given.model_fingerprint == expected
    torch.save(state, tmp_path / "a" / "pytorch_model.bin")
    assert folder_model(tmp_path / "a", image_size=32).model_fingerprint == expected
    state.pop("classifier.weight")
    save_file(state, tmp_path / "a" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit the backbone: 1 tensors missing .*classifier\.weight"):
        folder_model(tmp_path / "a")
    assert folder_model(tmp_path / "a", weights="random").class_count == 3


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("evil-was-here"),)  # type: ignore[return-value]


def test_no_code_of_a_folder_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a", "vit")
    (tmp_path / "a" / "model.safetensors").unlink()
    (tmp_path / "a" / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ConfigError, match="weights_only=True"):
        folder_model(tmp_path / "a")
    own = {"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"}
    (tmp_path / "a" / "config.json").write_text(json.dumps(own))
    (tmp_path / "a" / "evil.py").write_text("from pathlib import Path; Path('evil-was-here').touch()")
    with pytest.raises(ConfigError, match=r"model\.backbone: .*config\.json' is no config that transformers"):
        folder_model(tmp_path / "a")
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dinov3", {}, r"model\.head: .* is no image classifier \(its architecture: DINOv3ViTModel\)"),
        ("vit", {"pool": "avg"}, r"model\.pool"),
        ("vit", {"match": "order"}, r"model\.match"),
        ("vit", {"weights": "laion"}, r"model\.weights: 'laion' is neither a file nor random"),
        ("vit", {"kwargs": {"hiden_act": "relu"}}, r"model\.kwargs: .*takes no 'hiden_act' \(nearest: hidden_act"),
        ("vit", {"kwargs": {"num_labels": 4}}, r"model\.kwargs: num_labels cannot be given: model\.head decides"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, name)
    with pytest.raises(ConfigError, match=message):
        folder_model(tmp_path, **options)


def test_kwargs_of_transformers_change_the_model(tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    usual = folder_model(tmp_path, image_size=32)
    other = folder_model(tmp_path, image_size=32, kwargs={"hidden_act": "relu"})
    assert usual.model_fingerprint != other.model_fingerprint
    assert (
        other.split.encoder.vit.layers[0].mlp.activation_fn is not usual.split.encoder.vit.layers[0].mlp.activation_fn
    )


PROCESSORS: dict[str, dict[str, Any]] = {
    "BitImageProcessor": {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "resample": 3},
    "ViTImageProcessor": {"size": {"height": 64, "width": 64}, "resample": 2},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3},
    "CLIPImageProcessor": {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "resample": 3},
    "DeiTImageProcessor": {
        "size": {"height": 72, "width": 72},
        "crop_size": {"height": 64, "width": 64},
        "resample": 3,
    },
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_photos_are_prepared_as_the_image_processor_does(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    processor = getattr(transformers, kind)(**PROCESSORS[kind], image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    processor.save_pretrained(tmp_path)
    model = build_classifier(ModelConfig(backbone=f"transformers:local-dir:{tmp_path}"))
    picture = Image.open(io.BytesIO(photo(1, (200, 150)))).convert("RGB")
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="np")["pixel_values"][0]
    transform = model.transform
    ours = (transform.apply(picture) / 255 - np.array(transform.mean)) / np.array(transform.std)
    assert theirs.shape == (3, *transform.size) == (3, 64, 64)
    # PIL's resampling rounds to whole values twice, torchvision's once: no place, only their last bits differ.
    assert np.abs(ours.transpose(2, 0, 1) - theirs).max() < 3 / 255 / 0.2
    assert np.abs(ours.transpose(2, 0, 1) - theirs).mean() < 0.6 / 255 / 0.2


# Name of the CAM layer, and a size in pixels at which the grid has more than a cell.
CNNS = {
    "resnet18": ("layer4", 64),
    "efficientnet_b0": ("features", 64),
    "mobilenet_v3_small": ("features", 64),
    "convnext_tiny": ("features", 64),
    "regnet_y_400mf": ("trunk_output", 64),
    "alexnet": ("features", 128),
    "swin_t": ("permute", 64),
    "shufflenet_v2_x0_5": ("conv5", 64),
}


@pytest.mark.parametrize("name", CNNS)
def test_cnns_of_torchvision_against_autograd(name: str) -> None:
    layer, size = CNNS[name]
    model = build_classifier(ModelConfig(backbone=f"torchvision:{name}", weights="random", image_size=size))
    assert check_against_autograd(model, model.split.encoder.get_submodule(layer), (size, size)) < 1e-10


def test_a_vit_of_torchvision_against_autograd() -> None:
    sizes = {"num_layers": 2, "hidden_dim": 64, "num_heads": 2, "mlp_dim": 96, "representation_size": 48}
    encoder = drawn(torchvision.models.VisionTransformer(64, 16, **sizes, num_classes=7))
    head, transform = LinearHead.from_linear(encoder.heads.head), Transform(size=(64, 64))
    model = Classifier(split_torchvision(encoder), head, transform, ClassNames.numbered(7), ClassNames(()))
    model.eval().requires_grad_(False)
    model.grid_size, model.embedding_size = (4, 4), 48
    x = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), encoder(x), rtol=1e-4, atol=1e-5)
    assert check_against_autograd(model, encoder.encoder.layers[-1].ln_1, (64, 64)) < 1e-10


def test_densenet_is_cut_after_the_activation_that_no_module_has() -> None:
    model = build_classifier(ModelConfig(backbone="torchvision:densenet121", weights="random", image_size=64))
    x = torch.randn((1, 3, 64, 64))
    cut, encoder = model.cut(x), model.split.encoder
    with torch.no_grad():
        torch.testing.assert_close(cut.activation, encoder.features(x).relu())
        torch.testing.assert_close(model(x), encoder(x), rtol=1e-4, atol=1e-5)
    row = model.head.weight[:1][None]
    torch.testing.assert_close(cut.gradient(row), (row / 4)[..., None, None].expand(-1, -1, -1, 2, 2))


def test_weights_and_preprocessing_of_torchvision(tmp_path: Path) -> None:
    kind = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    torch.manual_seed(4)
    theirs = drawn(torchvision.models.resnet18(num_classes=5))
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "w.pth")
    model = build_classifier(ModelConfig(backbone="torchvision:resnet18", weights=str(tmp_path / "w.pth")))
    picture = Image.open(io.BytesIO(photo(2, (320, 250)))).convert("RGB")
    prepared = kind.transforms()(picture)
    transform = model.transform
    ours = (transform.apply(picture) / 255 - np.array(transform.mean)) / np.array(transform.std)
    np.testing.assert_allclose(ours.transpose(2, 0, 1), prepared.numpy(), atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(prepared[None]), theirs(prepared[None]), rtol=1e-4, atol=1e-4)
        bare = ModelConfig(
            backbone="torchvision:resnet18", weights=str(tmp_path / "w.pth"), head="none", classes=["a", "b"]
        )
        assert build_classifier(bare).cut(prepared[None]).embedding.shape == (1, 512)


def test_published_weights_come_from_torchs_cache_without_unpickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url
    place = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    theirs = torchvision.models.shufflenet_v2_x0_5().eval()
    torch.save(theirs.state_dict(), place)
    config = ModelConfig(backbone="torchvision:shufflenet_v2_x0_5", weights="DEFAULT")
    x = torch.randn((1, 3, 224, 224))
    with torch.no_grad():
        torch.testing.assert_close(build_classifier(config)(x), theirs(x), rtol=1e-4, atol=1e-5)
    place.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ConfigError, match=r"model\.weights: .*cannot be fetched"):
        build_classifier(config)
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, r"torchvision has no model 'resnet51' \(nearest: resnet50"),
        ("resnet18", {"weights": "IMAGENET1K_V9"}, r"neither a file nor a pretrained tag .*nearest: IMAGENET1K_V1"),
        ("squeezenet1_0", {}, r"SqueezeNet does not end in a linear classifier"),
        ("googlenet", {}, r"a model of type GoogLeNet"),
        ("resnet18", {"pool": "avg"}, r"model\.pool"),
        ("resnet18", {"kwargs": {"grups": 2}}, r"takes no 'grups' \(nearest: groups"),
        ("resnet18", {"kwargs": {"weights": "DEFAULT"}}, r"weights cannot be given: model\.weights decides it"),
        ("resnet18", {"kwargs": {"groups": 2}}, r"model\.kwargs: torchvision:resnet18 cannot be made with"),
        ("vit_b_16", {"image_size": (64, 96)}, r"model\.image_size: .*square"),
    ],
)
def test_what_torchvision_lacks_is_said(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_classifier(ModelConfig(backbone=f"torchvision:{name}", **{"weights": "random", **options}))


def test_kwargs_make_a_finer_grid() -> None:
    config = ModelConfig(
        backbone="torchvision:resnet50",
        weights="random",
        image_size=64,
        kwargs={"replace_stride_with_dilation": [False, False, True]},
    )
    assert build_classifier(config).grid_size == (4, 4)
