"""Which models can be explained, and how exactly?

Each model is built by its name as a config would, with random weights, one at a time. Its contrast basis is held to
full autograd: the library's own forward pass, a backward pass through the whole of it for each class, and Grad-CAM's
formula. `error` is the largest difference by the largest value. What is refused is listed with the message that a user
gets.

    python -m benchmarks.bench_models                 all of MODELS; benchmarks/bench_models.json and docs/models.md
    python -m benchmarks.bench_models NAME ...        these lines of them alone, written over
"""

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import open_clip
import torch
import torchvision
import transformers
from open_clip import hf_model
from torch import Tensor

from finer_ray.config.schema import ModelConfig
from finer_ray.errors import ConfigError
from finer_ray.models import Classifier, build_classifier
from finer_ray.models.head import LinearHead
from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.plain_block import PlainCut
from finer_ray.models.split import MapSplit, Split, TokenSplit
from finer_ray.saliency import SaliencySpec, explain
from tests.models.hub_cache import lay_out

RESULTS, PAGE = Path(__file__).with_suffix(".json"), Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- benchmarks/bench_models.py writes from here -->", "<!-- to here -->"
# Larger ones are computed in float32.
FLOAT64_PARAMETERS = 200_000_000
CLASSES = [f"class {number}" for number in range(8)]
BARE: dict[str, Any] = {"head": "none", "classes": CLASSES}
# `model.backbone`, and what else the section says. head: none stands for a probe, which is drawn.
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("timm:resnet50", {"image_size": 128}),
    ("timm:resnetv2_50x1_bit", {"image_size": 128}),
    ("timm:densenet121", {"image_size": 128}),
    ("timm:vgg16", {"image_size": 64}),
    ("timm:inception_v3", {"image_size": 139}),
    ("timm:efficientnet_b0", {"image_size": 128}),
    ("timm:tf_efficientnetv2_s", {"image_size": 128}),
    ("timm:tf_efficientnet_lite0", {"image_size": 128}),
    ("timm:mobilenetv3_large_100", {"image_size": 128}),
    ("timm:regnety_016", {"image_size": 128}),
    ("timm:dm_nfnet_f0", {"image_size": 128}),
    ("timm:convnext_tiny", {"image_size": 128}),
    ("timm:convnextv2_tiny", {"image_size": 128}),
    ("timm:fastvit_t8", {"image_size": 128}),
    ("timm:coatnet_0_224", {}),
    ("timm:maxvit_tiny_tf_224", {}),
    ("timm:swin_tiny_patch4_window7_224", {}),
    ("timm:swinv2_tiny_window8_256", {}),
    ("timm:pvt_v2_b1", {"image_size": 128}),
    ("timm:vit_tiny_patch16_224", {"image_size": 128}),
    ("timm:vit_base_patch16_224", {"image_size": 128}),
    ("timm:vit_base_patch16_224", {"image_size": 128, "pool": "avg", "cam_layer": "final"}),
    ("timm:vit_base_patch16_224", {"image_size": 128, "cam_layer": "blocks.9"}),
    ("timm:vit_small_patch14_dinov2", {"image_size": 140, **BARE}),
    ("timm:vit_base_patch14_reg4_dinov2", {"image_size": 140, **BARE}),
    ("timm:vit_small_patch16_dinov3", {"image_size": 128, **BARE}),
    ("timm:vit_small_patch16_dinov3", {"image_size": 128, "pool": "token", **BARE}),
    ("timm:vit_base_patch16_dinov3", {"image_size": 128, "pool": "token", **BARE}),
    ("timm:vit_huge_plus_patch16_dinov3", {"image_size": 64, **BARE}),
    ("timm:convnext_tiny.dinov3_lvd1689m", {"image_size": 128, **BARE}),
    ("timm:eva02_small_patch14_336", {"image_size": 140, **BARE}),
    ("timm:eva02_base_patch14_448", {"image_size": 140, **BARE}),
    ("timm:vit_pe_core_small_patch16_384", {"image_size": 128, **BARE}),
    ("timm:vit_base_patch16_siglip_224", {"image_size": 128, **BARE}),
    ("timm:vit_base_patch16_rope_reg1_gap_256", {"image_size": 128}),
    ("timm:beit_base_patch16_224", {"image_size": 128}),
    ("timm:beitv2_base_patch16_224", {"image_size": 128}),
    ("timm:deit_small_distilled_patch16_224", {"image_size": 128}),
    ("timm:deit3_small_patch16_224", {"image_size": 128}),
    ("timm:cait_xxs24_224", {}),
    ("timm:xcit_nano_12_p16_224", {}),
    ("timm:volo_d1_224", BARE),
    ("timm:levit_128s", {}),
    ("timm:hiera_tiny_224", {}),
    ("timm:mvitv2_tiny", {}),
    ("timm:naflexvit_base_patch16_gap", {"image_size": 384}),
    ("timm:mixer_b16_224", {}),
    ("timm:crossvit_9_240", {}),
    ("open_clip:RN50", BARE),
    ("open_clip:ViT-B-32", BARE),
    ("open_clip:ViT-B-16", {"cam_layer": "transformer.resblocks.9", **BARE}),
    ("open_clip:convnext_base", BARE),
    ("open_clip:coca_ViT-B-32", BARE),
    ("open_clip:EVA02-B-16", BARE),
    ("open_clip:ViT-B-16-SigLIP", BARE),
    ("open_clip:ViT-B-32-SigLIP2-256", BARE),
    ("open_clip:PE-Core-T-16-384", BARE),
    ("open_clip:PE-Core-B-16", BARE),
    ("open_clip:MobileCLIP-S1", BARE),
    ("open_clip:MobileCLIP2-S0", BARE),
    ("open_clip:ViTamin-S", BARE),
    ("open_clip:xlm-roberta-base-ViT-B-32", BARE),
    ("open_clip:hf-hub:imageomics/bioclip", BARE),
    ("timm:hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", {"image_size": 128}),
    ("torchvision:resnet50", {"image_size": 128}),
    ("torchvision:efficientnet_b0", {"image_size": 128}),
    ("torchvision:convnext_tiny", {"image_size": 128}),
    ("torchvision:swin_t", {"image_size": 128}),
    ("torchvision:vit_b_16", {"image_size": 128}),
    ("torchvision:vgg16", {"image_size": 64}),
    ("torchvision:googlenet", {"image_size": 128}),
    ("transformers:google/vit-base-patch16-224", {"image_size": 128}),
    ("transformers:facebook/dinov2-base", {"image_size": 140, **BARE}),
    ("transformers:facebook/dinov2-with-registers-base", {"image_size": 140, **BARE}),
    ("transformers:facebook/dinov3-vits16-pretrain-lvd1689m", {"image_size": 128, **BARE}),
    ("transformers:microsoft/beit-base-patch16-224", {}),
    ("transformers:openai/clip-vit-base-patch32", {"image_size": 128, **BARE}),
    ("transformers:google/siglip-base-patch16-224", {"image_size": 128, **BARE}),
    ("transformers:microsoft/swin-tiny-patch4-window7-224", {}),
    ("transformers:facebook/convnext-tiny-224", {"image_size": 128}),
    ("transformers:microsoft/resnet-50", {"image_size": 128}),
]
# What repositories of transformers' hold, which nothing here fetches: the model's class, and what its config says other
# than the class's own default.
REPOSITORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "google/vit-base-patch16-224": ("ViTForImageClassification", {}),
    "facebook/dinov2-base": ("Dinov2Model", {"image_size": 518, "patch_size": 14}),
    "facebook/dinov2-with-registers-base": ("Dinov2WithRegistersModel", {"image_size": 518, "patch_size": 14}),
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("DINOv3ViTModel", {"num_register_tokens": 4}),
    "microsoft/beit-base-patch16-224": ("BeitForImageClassification", {"use_relative_position_bias": True}),
    "openai/clip-vit-base-patch32": ("CLIPModel", {}),
    "google/siglip-base-patch16-224": ("SiglipModel", {}),
    "microsoft/swin-tiny-patch4-window7-224": ("SwinForImageClassification", {}),
    "facebook/convnext-tiny-224": ("ConvNextForImageClassification", {}),
    "microsoft/resnet-50": ("ResNetForImageClassification", {}),
}


def line_of(backbone: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table: what was asked for, and what came of it."""
    said = {key: value for key, value in options.items() if key in ("pool", "cam_layer")}
    line: dict[str, Any] = {"model": backbone, **said}
    try:
        model = build_classifier(ModelConfig(backbone=backbone, weights="random", **options))
    except ConfigError as error:
        return {**line, "refused": str(error).splitlines()[0]}
    if options.get("head") == "none":
        weight = torch.randn((len(CLASSES), model.embedding_size), generator=torch.Generator().manual_seed(3))
        model.head = LinearHead(weight / 9)
    count = sum(parameter.numel() for parameter in model.split.parameters())
    _draw(model, torch.float64 if count <= FLOAT64_PARAMETERS else torch.float32)
    return {**line, **_measured(model, "native" if "head" not in options else "drawn"), "parameters": count}


def _draw(model: Classifier, dtype: torch.dtype) -> None:
    """Norms, biases and layer scales drawn, too, and whatever begins as zero: as they are made they hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    for tensor in model.split.parameters():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2 if tensor.ndim == 1 else 0.01)
    model.to(dtype)


def _measured(model: Classifier, head: str) -> dict[str, Any]:
    dtype = next(model.split.parameters()).dtype
    x = torch.randn((1, 3, *model.transform.size), generator=torch.Generator().manual_seed(1)).to(dtype)
    if head == "native":
        # Its weights have been drawn.
        model.head = _drawn_head(model.split).to(dtype)
    found = explain(model, x, SaliencySpec(references=1))
    classes = torch.cat([found.target[:, None], found.references], dim=1)[0]
    layer, expected = _by_autograd(model, x, classes, head == "native")
    closed = type(model.cut(x)) is PlainCut
    return {
        "grid": list(model.grid_size),
        "layer": layer,
        "way": "closed form" if closed else "autograd through the tail",
        "error": float((found.basis - expected).abs().max() / expected.abs().max()),
        "dtype": str(dtype).removeprefix("torch."),
    }


def _drawn_head(split: Split) -> LinearHead:
    """The library's own classifier as it is now; of two the mean."""
    layers: Any = split.classifiers
    weight = torch.cat([layer.weight.flatten(1) for layer in layers], dim=1) / len(layers)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return LinearHead(weight, torch.stack(biases).mean(0) if biases else None)


def _by_autograd(model: Classifier, x: Tensor, classes: Tensor, native: bool) -> tuple[str, Tensor]:
    """The CAM layer's name and the basis, (1, J, h, w), by the library's own forward and backward."""
    kept: list[Tensor] = []

    def keep(*given: Any) -> Any:
        output = given[-1]
        kept.append(output[0] if isinstance(output, tuple) else output)
        # What comes next may write over what it is given.
        return (kept[0].clone(), *output[1:]) if isinstance(output, tuple) else output.clone()

    name, restore = _keep_layer(model, keep)
    output = model.split(x.clone().requires_grad_())
    restore()
    logits = output if native else model.head(output)
    gradients = [torch.autograd.grad(logits[0, index], kept[0], retain_graph=True)[0] for index in classes]
    activation, *slopes = (model.split.grid(values.detach(), model.transform.size) for values in (kept[0], *gradients))
    basis = [(slope.mean((2, 3), keepdim=True) * activation).sum(1) for slope in slopes]
    return name, torch.stack(basis, dim=1)


def _keep_layer(model: Classifier, keep: Callable[..., Any]) -> tuple[str, Callable[[], None]]:
    """Have `keep` see and replace the CAM layer's output; its name, and how to leave it alone again."""
    split: Any = model.split
    encoder = split.encoder
    inside, where = (encoder.trunk, "trunk.") if hasattr(encoder, "trunk") else (encoder, "")
    if isinstance(split, HookedSplit):
        name = split.layer
    elif isinstance(encoder, torchvision.models.VisionTransformer):
        name = f"encoder.layers.encoder_layer_{len(encoder.encoder.layers) - 1}.ln_1"
    elif hasattr(encoder, "transformer"):
        name = f"transformer.resblocks.{len(encoder.transformer.resblocks) - 1}.ln_1"
    elif hasattr(encoder, "attnpool"):
        name = "layer4"
    elif isinstance(split, TokenSplit) or (not isinstance(split, MapSplit) and hasattr(inside, "patch_embed")):
        name = f"{where}blocks.{len(inside.blocks) - 1}.norm1"
    else:
        forward = inside.forward_features
        inside.forward_features = lambda images: keep(forward(images))
        return f"{where}forward_features", lambda: setattr(inside, "forward_features", forward)
    handle = encoder.get_submodule(name).register_forward_hook(keep)
    return name, handle.remove


def page_of(lines: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    rows = ["| `model.backbone` | and | CAM layer | grid | derivative | error |", "|---|---|---|---|---|---|"]
    for line in lines:
        said = ", ".join(f"`{key}: {line[key]}`" for key in ("pool", "cam_layer") if key in line)
        if "refused" in line:
            rows.append(f"| `{line['model']}` | {said} | refused: {line['refused'].replace('|', '/')} | | | |")
            continue
        error = f"{line['error']:.0e}" + (" (float32)" if line["dtype"] == "float32" else "")
        grid = "x".join(map(str, line["grid"]))
        rows.append(f"| `{line['model']}` | {said} | `{line['layer']}` | {grid} | {line['way']} | {error} |")
    return "\n".join(rows)


def _without_texts() -> None:
    """XLM-RoBERTa's config is on the hub; the text tower, which plays no part here, becomes a small one."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small = transformers.XLMRobertaConfig(**sizes)
    # open_clip's name for it, not transformers' own, which other lines need.
    vars(hf_model)["AutoConfig"] = SimpleNamespace(from_pretrained=lambda *_given, **_options: small)


def _lay_out_hub(cache: Path) -> None:
    """Configs of repositories as the hub's cache holds them, for a process that is offline."""
    huggingface_hub.constants.HF_HUB_CACHE, huggingface_hub.constants.HF_HUB_OFFLINE = str(cache), True
    for name, (kind, settings) in REPOSITORIES.items():
        config = getattr(transformers, kind).config_class(**settings)
        tree = {**config.to_dict(), "architectures": [kind]}
        lay_out(cache, name, {"config.json": json.dumps(tree).encode()})
    clip = {"model_cfg": open_clip.get_model_config("ViT-B-16"), "preprocess_cfg": {}}
    lay_out(cache, "imageomics/bioclip", {"open_clip_config.json": json.dumps(clip).encode()})
    vit = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"input_size": [3, 224, 224]}}
    lay_out(cache, "timm/vit_tiny_patch16_224.augreg_in21k", {"config.json": json.dumps(vit).encode()})


def main(names: list[str]) -> None:
    """Measure, and write."""
    _without_texts()
    with tempfile.TemporaryDirectory() as cache:
        _lay_out_hub(Path(cache))
        _measure_all(names)


def _measure_all(names: list[str]) -> None:
    keys = [json.dumps([backbone, options]) for backbone, options in MODELS]
    known = json.loads(RESULTS.read_text())["lines"] if names and RESULTS.exists() else {}
    start = time.monotonic()
    for key, (backbone, options) in zip(keys, MODELS, strict=True):
        if names and backbone not in names:
            continue
        begun = time.monotonic()
        known[key] = {**line_of(backbone, options), "seconds": round(time.monotonic() - begun, 1)}
        print(json.dumps(known[key]), flush=True)
        gc.collect()
    lines = {key: known[key] for key in keys if key in known}
    RESULTS.write_text(json.dumps({"lines": lines}, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{page_of(list(lines.values()))}\n{END}{rest.partition(END)[2]}")
    print(
        f"{len(lines)} models, {sum('refused' in line for line in lines.values())} refused, "
        f"{time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
