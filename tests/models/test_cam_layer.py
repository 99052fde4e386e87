"""`model.cam_layer`: any layer, exact; `final`, whose maps are shares; and what is refused."""

import copy
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from finer_ray.config.schema import Config, ModelConfig, fingerprinted
from finer_ray.errors import ConfigError
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.cam_layer import split_at
from finer_ray.models.preparing import autocast, prepare
from finer_ray.models.split import MapSplit, Unsupported
from finer_ray.models.timm_split import split_timm
from finer_ray.pipeline.targets import check_saliency
from finer_ray.saliency import Gem, MapSpec, Mask, Rise, SaliencySpec, explain

GRADS = (
    MapSpec("gradcam"),
    MapSpec("finer_gradcam", gamma=0.6),
    MapSpec("finer_layercam", "layercam", gamma=0.6),
)
TOWERS: dict[str, dict[str, Any]] = {
    "tok": {"layers": 3, "width": 64, "patch_size": 16, "head_width": 32},
    "avg": {"layers": 3, "width": 64, "patch_size": 16, "head_width": 32, "pool_type": "avg"},
    "late": {
        "layers": 2,
        "width": 64,
        "patch_size": 16,
        "head_width": 32,
        "pool_type": "avg",
        "final_ln_after_pool": True,
    },
    "coca": {
        "layers": 2,
        "width": 64,
        "patch_size": 16,
        "head_width": 32,
        "output_tokens": True,
        "attentional_pool": True,
        "attn_pooler_queries": 6,
        "attn_pooler_heads": 2,
    },
    "timm": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
    "fastvit": {"timm_model_name": "fastvit_t8", "timm_pool": "avg", "timm_proj": None},
    "eva": {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None},
    "mlp": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "mlp"},
}


@pytest.fixture(scope="module", autouse=True)
def towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Small open_clip models, registered under the names layer-*."""
    folder = tmp_path_factory.mktemp("configs")
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    sizes = {"timm": 160, "eva": 224, "mlp": 224}
    for name, vision in TOWERS.items():
        tree = {"embed_dim": 24, "vision_cfg": {"image_size": sizes.get(name, 64), **vision}, "text_cfg": text}
        (folder / f"layer-{name}.json").write_text(json.dumps(tree))
    open_clip.add_model_config(folder)


@pytest.fixture
def probe(tmp_path: Path) -> Callable[[int], str]:
    def made(width: int) -> str:
        weight = torch.randn((7, width), generator=torch.Generator().manual_seed(3)) / 9
        save_file({"weight": weight, "bias": torch.linspace(-1, 1, 7)}, tmp_path / f"{width}.safetensors")
        return str(tmp_path / f"{width}.safetensors")

    return made


def built(backbone: str, **options: Any) -> Classifier:
    """A classifier in float64, with norms and biases drawn."""
    if backbone.startswith("open_clip") and "head" not in options:
        options |= {"head": "text", "classes": ["cat", "dog", "bird", "fish", "horse"]}
    model = build_classifier(ModelConfig(backbone=backbone, weights="random", **options)).double()
    generator = torch.Generator().manual_seed(7)
    for tensor in model.parameters():
        if tensor.ndim == 1:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.mul_(1 + 0.3 * noise).add_(0.2 * noise)
    if options.get("head", "native") == "native":
        model.head.bias.copy_(model.split.encoder.get_classifier().bias)
    return model


def pictures(model: Classifier, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, 3, *model.transform.size), generator=generator, dtype=torch.float64)


def close(found: Tensor, expected: Tensor, bound: float = 1e-9) -> bool:
    return bool((found - expected).abs().max() <= bound * expected.abs().max())


def by_autograd(model: Classifier, layer: nn.Module, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output and the gradients (B, J, ...) there, through the library's whole forward and the head."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
        kept.append(output)
        # What comes next may write over what it is given.
        return output.clone()

    handle = layer.register_forward_hook(keep)
    output = model.split.encoder(x.clone().requires_grad_())
    handle.remove()
    output = output[0] if isinstance(output, tuple) else output
    logits = output if output.shape[1] == len(model.head.weight) else model.head(output)
    found = [
        torch.stack([torch.autograd.grad(logits[row, index], kept[0], retain_graph=True)[0][row] for index in indices])
        for row, indices in enumerate(classes)
    ]
    return kept[0].detach(), torch.stack(found)


@pytest.mark.parametrize(
    ("backbone", "options", "layer", "grid"),
    [
        ("timm:efficientnet_lite0", {"image_size": 96}, "blocks.4", (6, 6)),
        ("timm:test_resnet", {"image_size": (64, 96)}, "layer3", (4, 6)),
        ("timm:test_resnet", {"image_size": 64}, "layer4.0.bn1", (2, 2)),
        ("timm:convnext_atto", {"image_size": 64}, "stages.2.blocks.1.mlp.fc1", (4, 4)),
        ("timm:test_vit", {"image_size": (64, 96)}, "blocks.3", (4, 6)),
        ("timm:test_vit", {"image_size": 64}, "blocks.3.attn.qkv", (4, 4)),
        ("timm:vit_small_patch14_reg4_dinov2", {"image_size": 56, "head": "probe"}, "blocks.9", (4, 4)),
        ("timm:test_vit", {"image_size": 64, "pool": "avg"}, "blocks.5", (4, 4)),
        ("open_clip:layer-tok", {}, "transformer.resblocks.1", (4, 4)),
        ("open_clip:layer-timm", {}, "trunk.blocks.2.norm2", (10, 10)),
        ("open_clip:layer-coca", {}, "default", (4, 4)),
        ("open_clip:layer-fastvit", {}, "default", (2, 2)),
        ("open_clip:layer-fastvit", {}, "trunk.stages.2", (4, 4)),
        ("open_clip:layer-eva", {}, "default", (16, 16)),
        ("open_clip:layer-mlp", {}, "default", (14, 14)),
    ],
)
def test_every_layer_is_full_autograd(
    backbone: str, options: dict[str, Any], layer: str, grid: tuple[int, int], probe: Callable[[int], str]
) -> None:
    options = {**options, "head": probe(384)} if options.get("head") == "probe" else options
    model = built(backbone, cam_layer=layer, **options)
    assert model.grid_size == grid
    x = pictures(model)
    result = explain(model, x, SaliencySpec(GRADS))
    classes = torch.cat([result.target[:, None], result.references], dim=1)
    places = {
        "open_clip:layer-coca": "transformer.resblocks.1.ln_1",
        "open_clip:layer-fastvit": "trunk.final_conv",
        "open_clip:layer-eva": "trunk.blocks.11.norm1",
        "open_clip:layer-mlp": "trunk.blocks.11.norm1",
    }
    name = places[backbone] if layer == "default" else layer
    activation, gradients = by_autograd(model, model.split.encoder.get_submodule(name), x, classes)
    if activation.ndim == 3:
        activation, gradients = (
            values[..., -grid[0] * grid[1] :, :].transpose(-1, -2).unflatten(-1, grid)
            for values in (activation, gradients)
        )
    elif activation.shape[1:3] == grid:
        activation, gradients = (values.movedim(-1, -3) for values in (activation, gradients))
    assert gradients.any()
    basis = (gradients.mean((3, 4), keepdim=True) * activation[:, None]).sum(2)
    assert close(result.basis, basis)
    assert close(result.maps[:, 1], (basis[:, 0] - 0.6 * basis[:, 1:].mean(1)).relu())
    finer = gradients[:, 0] - 0.6 * gradients[:, 1:].mean(1)
    assert close(result.maps[:, 2], (finer.relu() * activation).sum(1).relu())
    with torch.no_grad():
        assert close(model.differentiable(x), result.logits)
    assert close(model(x), result.logits)
    assert close(model.split.tail(*model.split.trunk(x)), model.split.embed(x))


@pytest.mark.parametrize(
    ("backbone", "options", "width"),
    [
        ("timm:test_vit", {"image_size": (64, 96), "pool": "avg"}, 0),
        ("timm:vit_small_patch14_reg4_dinov2", {"image_size": 56, "pool": "avg"}, 384),
        ("timm:vit_small_patch16_dinov3", {"image_size": 64}, 384),
        ("timm:test_resnet", {"image_size": 96}, 0),
        ("timm:efficientnet_lite0", {"image_size": 64}, 0),
        ("open_clip:layer-avg", {}, 24),
    ],
)
def test_cells_of_the_final_layer_add_up_to_the_logit(
    backbone: str, options: dict[str, Any], width: int, probe: Callable[[int], str]
) -> None:
    head = {"head": probe(width)} if width else {}
    model = built(backbone, cam_layer="final", **options, **head)
    x = pictures(model, 1)
    result = explain(model, x, SaliencySpec(GRADS))
    classes = torch.cat([result.target[:, None], result.references], dim=1)
    expected = result.logits.gather(1, classes) - model.head.bias[classes]
    # What the norm and the projection before the head add is no cell's.
    assert close(result.basis.sum((2, 3)), expected)
    assert (model.cut(x).gradient(model.head.weight[classes]).std((3, 4)) < 1e-12).all()
    plain = built(backbone, **options, **head)
    assert close(plain(x), result.logits)


@pytest.mark.parametrize(
    ("backbone", "options", "layer", "message"),
    [
        (
            "timm:test_vit",
            {},
            "blocks.12",
            r"model\.cam_layer: 'blocks\.12' of timm:test_vit.*no such module \(nearest: blocks\.",
        ),
        ("timm:test_vit", {}, "blocks.9.norm1", "nearest: blocks"),
        ("timm:test_vit", {}, "blocks.5", "no logit depends on the cells of 'blocks.5'.*model.pool: avg"),
        ("timm:test_vit", {}, "final", r"no logit depends .*class token.*model\.pool: avg"),
        ("timm:test_vit", {}, "head", r"no map or row of tokens .*choose a block"),
        ("timm:test_vit", {}, "blocks.3.attn.q_norm", r"no map or row of tokens"),
        ("timm:test_efficientnet", {}, "blocks.4.0.se.conv_expand", r"has a single cell"),
        ("timm:test_resnet", {}, "global_pool", r"no map or row of tokens"),
        (
            "timm:vit_small_patch16_dinov3",
            {"head": "none", "classes": ["a", "b"]},
            "blocks",
            r"list of modules.*blocks\.11",
        ),
        (
            "timm:eva02_tiny_patch14_224",
            {"head": "none", "classes": ["a", "b"]},
            "final",
            r"what follows the pooling .* is not linear",
        ),
        ("timm:convnext_atto", {"image_size": 64}, "final", r"what follows the pooling .* is not linear"),
        ("timm:vit_pe_core_tiny_patch16_384", {"head": "none", "classes": ["a", "b"]}, "final", r"is no mean"),
        ("timm:hiera_tiny_224", {}, "blocks.3", r"not in reading order: choose among blocks\.10 to blocks\.11"),
        ("open_clip:layer-avg", {}, "final", "unit length"),
        ("open_clip:layer-late", {"head": "probe"}, "final", "is not linear"),
    ],
)
def test_what_cannot_be_a_cam_layer(
    backbone: str, options: dict[str, Any], layer: str, message: str, probe: Callable[[int], str]
) -> None:
    options = {**options, "head": probe(24)} if options.get("head") == "probe" else options
    with pytest.raises(ConfigError, match=message):
        built(backbone, cam_layer=layer, **options)


def test_tokens_without_a_place_leave_the_others_no_whole_shares() -> None:
    options = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 64, "global_pool": "avg", "fc_norm": False}
    for include in (False, True):
        model = timm.create_model("vit_tiny_patch16_224", pool_include_prefix=include, **options)
        split, x = split_timm(model.eval().requires_grad_(False)), torch.randn(2, 3, 64, 64)
        with pytest.raises(Unsupported, match="tokens without a place") if include else nullcontext():
            assert split_at(split, "final", x).cut(x).activation.shape == (2, 32, 4, 4)


class Pooled(MapSplit):
    """A row of layers, of which the last two pool."""

    def trunk(self, images: Tensor) -> Any:
        return self.encoder[:-2](images), None

    def tail(self, activation: Tensor, residual: Tensor | None) -> Any:
        return self.encoder[-2:](activation)


def test_a_module_that_runs_more_than_once_is_refused() -> None:
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    encoder = nn.Sequential(twice, twice, nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    split, x = Pooled(encoder), torch.randn(2, 3, 8, 8)
    for name in ("0", "0.0"):
        with pytest.raises(Unsupported, match=f"'{name}' is called 2 times"):
            split_at(split, name, x)
    assert split_at(split, "2", x).cut(x).activation.shape == (2, 4, 8, 8)


def test_the_key_is_part_of_fingerprints_only_where_it_is_said() -> None:
    def config(**model: Any) -> Config:
        tree = {
            "input": {"shards": "x.tar"},
            "output": {"url": "out"},
            "model": {"backbone": "timm:test_vit", "weights": "random", **model},
        }
        return Config.model_validate(tree)

    assert "cam_layer" not in fingerprinted(config().model_dump(mode="json"))["model"]
    assert config(cam_layer="default").fingerprint() == config().fingerprint() != config(cam_layer="x").fingerprint()
    prints = [
        build_classifier(ModelConfig(backbone="timm:test_vit", weights="random", image_size=64, pool="avg", **options))
        for options in ({}, {"cam_layer": "default"}, {"cam_layer": "final"}, {"cam_layer": "blocks.2"})
    ]
    assert prints[0].model_fingerprint == prints[1].model_fingerprint
    assert len({model.model_fingerprint for model in prints}) == 3


def test_methods_of_their_own_passes_work_at_another_layer() -> None:
    model = built("open_clip:layer-tok", cam_layer="transformer.resblocks.1")
    usual = built("open_clip:layer-tok")
    x = pictures(model)
    maps = tuple(MapSpec(cam, cam) for cam in ("gem", "rise", "mask", "legrad", "chefer", "scorecam"))
    settings = {"rise": Rise(masks=9), "mask": Mask(steps=3), "gem": Gem()}
    found, expected = (explain(each, x, SaliencySpec(maps, settings=settings)).maps for each in (model, usual))
    # None of them looks at the CAM layer, but for the last.
    assert close(found[:, :5], expected[:, :5])
    assert found[:, 5].any()
    assert not close(found[:, 5], expected[:, 5], 1e-3)


def test_threads_copies_and_pickles_have_passes_of_their_own() -> None:
    model = built("timm:test_vit", cam_layer="blocks.2", image_size=64)
    images = [pictures(model) + number for number in range(6)]
    expected = [explain(model, x, SaliencySpec(GRADS)).maps for x in images]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda x: explain(model, x, SaliencySpec(GRADS)).maps, images))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        model.split.encoder.patch_embed.proj.weight.mul_(1.01)
        assert torch.equal(explain(other, images[0], SaliencySpec(GRADS)).maps, expected[0])


def test_nothing_before_the_layer_is_kept() -> None:
    model = built("timm:test_vit", cam_layer="blocks.4", image_size=64)
    model.split.encoder.requires_grad_(True)
    cut = model.cut(pictures(model))
    seen, waiting = set(), [cut._embedding.grad_fn]
    weights = {id(parameter) for block in model.split.encoder.blocks[:5] for parameter in block.parameters()}
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            assert id(getattr(node, "variable", None)) not in weights
            waiting += [parent for parent, _ in node.next_functions]


def test_compiling_is_refused_where_there_is_no_trunk() -> None:
    tree = {
        "input": {"shards": "x.tar"},
        "output": {"url": "out"},
        "model": {"backbone": "timm:test_vit", "weights": "random", "image_size": 64, "cam_layer": "blocks.2"},
        "compute": {"compile": True},
    }
    config = Config.model_validate(tree)
    with pytest.raises(ConfigError, match=r"^compute\.compile: .*compile: false"):
        check_saliency(config, build_classifier(config.model))


@pytest.mark.parametrize(
    ("backbone", "options", "layer"),
    [
        ("timm:test_vit", {}, "blocks.3"),
        ("timm:test_resnet", {}, "layer3"),
        ("timm:vit_small_patch16_dinov3", {"head": "none", "classes": ["a", "b"], "pool": "token"}, "default"),
    ],
)
def test_half_precision_is_near_float32(backbone: str, options: dict[str, Any], layer: str) -> None:
    config = ModelConfig(backbone=backbone, weights="random", image_size=64, cam_layer=layer, **options)
    model = build_classifier(config)
    x = pictures(model).float()
    halved = prepare(copy.deepcopy(model), torch.device("cpu"), "bf16")
    direction = torch.randn((2, 3, model.embedding_size), generator=torch.Generator().manual_seed(2))
    expected = model.cut(x).mean_gradient(direction)
    with autocast(torch.device("cpu"), "bf16"):
        found = halved.cut(x).mean_gradient(direction)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.98
    assert halved.split.convolutional == ("resnet" in backbone)


@pytest.mark.parametrize("backbone", ["timm:test_convnext", "timm:test_vit"])
def test_an_encoder_is_laid_out_alike_at_any_layer(backbone: str) -> None:
    """Half of a ConvNeXt's layers are linear."""
    layer = "stages.1" if backbone.endswith("convnext") else "patch_embed"
    found, usual = (built(backbone, image_size=64, **options) for options in ({"cam_layer": layer}, {}))
    assert found.split.convolutional == usual.split.convolutional == backbone.endswith("convnext")
