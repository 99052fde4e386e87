"""Classifiers of every kind of tail, with random weights, and their maps by autograd through the whole model."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from finer_ray.config.schema import ModelConfig
from finer_ray.models import Classifier, build_classifier

SMALL = {"layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
TOWERS: dict[str, dict[str, Any]] = {
    "tok": {**SMALL, "image_size": [64, 96], "ls_init_value": 0.5},
    "avg": {**SMALL, "image_size": 64, "pool_type": "avg"},
    "late": {**SMALL, "image_size": 64, "pool_type": "avg", "final_ln_after_pool": True},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "image_size": 64},
    "siglip": {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {"backbone": "timm:vit_tiny_patch16_224", "image_size": (64, 96)},
    "vit-avg": {"backbone": "timm:vit_tiny_patch16_224", "image_size": (96, 64), "pool": "avg"},
    "registers": {"backbone": "timm:vit_small_patch14_reg4_dinov2", "image_size": 56, "head": "probe"},
    "registers-avg": {
        "backbone": "timm:vit_small_patch14_reg4_dinov2",
        "image_size": (42, 56),
        "pool": "avg",
        "head": "probe",
    },
    "dinov2": {"backbone": "timm:vit_small_patch14_dinov2", "image_size": 56, "pool": "avg", "head": "probe"},
    "gap": {"backbone": "timm:vit_medium_patch16_gap_240", "image_size": 64},
    "clip-tok": {"backbone": "open_clip:cut-tok", "head": "text"},
    "clip-avg": {"backbone": "open_clip:cut-avg", "head": "text"},
    "clip-late": {"backbone": "open_clip:cut-late", "head": "text"},
    "clip-resnet": {"backbone": "open_clip:cut-resnet", "head": "text"},
    "resnet": {"backbone": "timm:test_resnet", "image_size": (64, 96)},
    "efficientnet": {"backbone": "timm:efficientnet_lite0", "image_size": 64},
    "convnext": {"backbone": "timm:convnext_atto", "image_size": 64},
    "swin": {"backbone": "timm:swin_tiny_patch4_window7_224"},
    "siglip": {"backbone": "timm:vit_base_patch16_siglip_224", "image_size": 64, "head": "probe768"},
    "qk-norm": {"backbone": "timm:vit_tiny_patch16_224", "image_size": 64, "qk_norm": True},
}
WORDS = ["cat", "dog", "bird", "fish", "horse", "tree", "boat"]


@cache
def build(name: str) -> Classifier:
    """A classifier in float64. Norms and layer scales are drawn too: at their initial values they hide mistakes."""
    folder = Path(mkdtemp())
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    for tower, vision in TOWERS.items():
        (folder / f"cut-{tower}.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    options: dict[str, Any] = {"weights": "random", **MODELS[name]}
    if options.get("head") == "text":
        options["classes"] = WORDS
    if str(options.get("head")).startswith("probe"):
        size = 768 if options["head"] == "probe768" else 384
        options["head"] = str(folder / "probe.safetensors")
        # Small, so that no class has all the probability: pytorch-grad-cam adds 1e-9 to that of the references.
        weight = torch.randn((20, size), generator=torch.Generator().manual_seed(3)) / 20
        save_file({"weight": weight}, options["head"])
    normalised = options.pop("qk_norm", False)
    model = build_classifier(ModelConfig(**options)).double()
    if normalised:
        attention = model.split.encoder.blocks[-1].attn
        attention.q_norm, attention.k_norm = (nn.LayerNorm(attention.head_dim).double() for _ in range(2))
    generator = torch.Generator().manual_seed(7)
    for tensor in model.parameters():
        if tensor.ndim == 1:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.mul_(1 + 0.3 * noise).add_(0.2 * noise)
        tensor.requires_grad_(False)
    if options.get("head", "native") == "native":
        model.head.bias.copy_(model.split.encoder.get_classifier().bias)
    return model.eval()


def images(model: Classifier, count: int = 3) -> Tensor:
    """Random images."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn((count, 3, *model.transform.size), generator=generator, dtype=torch.float64)


def cam_layer(model: Classifier) -> nn.Module | None:
    """The library's module whose output is the CAM layer; None for timm's CNNs, whose features are."""
    encoder = model.split.encoder
    if hasattr(encoder, "transformer"):
        return encoder.transformer.resblocks[-1].ln_1
    if hasattr(encoder, "attnpool"):
        return encoder.layer4
    return encoder.blocks[-1].norm1 if hasattr(encoder, "blocks") and hasattr(encoder, "patch_embed") else None


def by_autograd(model: Classifier, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Activations (B, D, h, w) and gradients (B, J, D, h, w) at the CAM layer: one full backward pass for each image
    and class, through the library's own forward."""
    encoder, layer = model.split.encoder, cam_layer(model)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    activations, gradients = [], []
    for image, indices in zip(x, classes, strict=True):
        kept: list[Tensor] = []
        if layer is not None:
            handle = layer.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
            output = model.split(image[None])
            handle.remove()
        else:
            kept.append(encoder.forward_features(image[None]))
            output = encoder.forward_head(kept[0])
        native = output.shape[1] == len(model.head.weight) and output.shape[1] != model.head.weight.shape[1]
        logits = output if native else model.head(output)
        found = [torch.autograd.grad(logits[0, index], kept[0], retain_graph=True)[0] for index in indices]
        activations.append(model.split.grid(kept[0].detach(), model.transform.size)[0])
        gradients.append(torch.stack([model.split.grid(gradient, model.transform.size)[0] for gradient in found]))
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    return torch.stack(activations), torch.stack(gradients)
