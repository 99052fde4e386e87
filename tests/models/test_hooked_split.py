"""Splits at any module, against autograd through the library's own forward pass in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock
from timm.models.vision_transformer_relpos import ResPostRelPosBlock
from torch import Tensor, nn

from finer_ray.models.hooked_split import HookedSplit
from finer_ray.models.plain_block import PlainCut
from finer_ray.models.split import Split
from finer_ray.models.timm_split import TimmEva, native_head, split_timm

THIN: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 64}
# timm's name, what makes it small, the CAM layer, the number of prefix tokens there.
TOKENS: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "eva02-base": (
        "eva02_base_patch14_224",
        {**THIN, "img_size": 56, "qkv_fused": False, "scale_mlp": True},
        "blocks.1.norm1",
        1,
    ),
    "dinov3-splus": ("vit_small_plus_patch16_dinov3", THIN, "blocks.1.norm1", 5),
    "eva-post": ("eva02_tiny_patch14_224", {**THIN, "img_size": 56, "use_post_norm": True}, "blocks.0", 1),
    "pe-core": ("vit_pe_core_tiny_patch16_384", THIN, "blocks.1.norm1", 1),
    "beit": ("beit_base_patch16_224", THIN, "blocks.1.norm1", 1),
    "beitv2-token": ("beitv2_base_patch16_224", {**THIN, "global_pool": "token"}, "blocks.1.norm1", 1),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", THIN, "blocks.1.norm1", 2),
    "relpos": ("vit_relpos_small_patch16_224", THIN, "blocks.1.norm1", 0),
    "relpos-post": ("vit_srelpos_small_patch16_224", {**THIN, "block_fn": ResPostRelPosBlock}, "blocks.0", 0),
    "parallel": ("vit_tiny_patch16_224", {**THIN, "block_fn": ParallelScalingBlock}, "blocks.1.in_norm", 1),
    "18x2": ("vit_small_patch16_18x2_224", THIN, "blocks.0", 1),
    "naflex": ("naflexvit_base_patch16_gap", {"depth": 2, "embed_dim": 48, "num_heads": 4}, "blocks.1.norm1", 4),
    "cait": ("cait_xxs24_224", THIN, "blocks_token_only.1.norm1", 1),
    "xcit": ("xcit_nano_12_p16_224", {"depth": 2, "embed_dim": 48, "img_size": 64}, "cls_attn_blocks.1.norm1", 1),
    "hiera": ("hiera_tiny_224", {"stages": (1, 1, 1, 2), "embed_dim": 24, "num_heads": 1}, "blocks.4.norm1", 0),
    "mvitv2": ("mvitv2_tiny", {"img_size": 96}, "stages.3.blocks.1.norm1", 0),
    "levit": ("levit_128s", {}, "stages.2", 0),
    "convit": ("convit_tiny", THIN, "blocks.1.norm1", 0),
    "pit": ("pit_ti_distilled_224", {}, "transformers.2.blocks.3.norm1", 2),
    "tnt": ("tnt_s_legacy_patch16_224", {"depth": 2, "img_size": 64}, "blocks.1.norm_out", 1),
    "mixer": ("mixer_s32_224", {}, "blocks.7.norm1", 0),
    "twins": ("twins_svt_small", {"img_size": 96}, "blocks.3.3.norm1", 0),
    "efficientformer": ("efficientformer_l1", {}, "stages.3.blocks.4.norm1", 0),
}


def drawn(model: nn.Module) -> Any:
    """A model in float64 with norms, biases and layer scales drawn, too: at their first values they hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    model.eval().requires_grad_(False)
    for tensor in model.parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.add_(0.2 * noise if tensor.ndim == 1 else 0.02 * noise)
    # Of numbers that float32 has, as those of a head are.
    return model.double()


def pictures(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_autograd(forward: Callable[[Tensor], Tensor], layer: nn.Module, x: Tensor, classes: list[int]) -> list[Tensor]:
    """The layer's output and the gradients of some of the forward's outputs there, through the whole model."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = layer.register_forward_hook(keep)
    logits = forward(x.clone().requires_grad_())
    handle.remove()
    sums = [logits[:, index].sum() for index in classes]
    return [kept[0], logits, *(torch.autograd.grad(one, kept[0], retain_graph=True)[0] for one in sums)]


def close(found: Tensor, expected: Tensor, bound: float = 1e-9) -> bool:
    return bool((found - expected).abs().max() <= bound * expected.abs().max())


def is_in_place(split: Split, x: Tensor) -> bool:
    """Whether the pixels of a corner change the activation most in that corner, a cell more or less."""
    before = split.cut(x).activation
    (h, w), (height, width) = before.shape[2:], x.shape[2:]
    changed = x.clone()
    corner = changed[:, :, height - height // h :, : width // w]
    corner += 3 * pictures((height // h, width // w), len(x))
    found = (split.cut(changed).activation - before).norm(dim=1)[0].flatten().argmax()
    return bool(found // w >= h - 2 and found % w <= 1)


# timm's Evas of plain blocks: what makes them small; they have a derivative in closed form.
EVAS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov3-avg": ("vit_small_patch16_dinov3", THIN),
    "dinov3-token": ("vit_small_patch16_dinov3", {**THIN, "global_pool": "token"}),
    "dinov3-bias": ("vit_small_patch16_dinov3_qkvb", {**THIN, "global_pool": "token"}),
    "eva02": ("eva02_tiny_patch14_224", {**THIN, "img_size": 56}),
    "eva02-token": ("eva02_tiny_patch14_224", {**THIN, "img_size": 56, "global_pool": "token"}),
    "eva": ("eva_giant_patch14_224", {**THIN, "img_size": 56}),
    "pe-spatial": ("vit_pe_spatial_tiny_patch16_512", {**THIN, "global_pool": "avg"}),
    "mixed": ("vit_small_patch16_rope_mixed_224", {**THIN, "img_size": 64}),
    "mixed-token": ("vit_small_patch16_rope_mixed_224", {**THIN, "img_size": 64, "global_pool": "token"}),
}


@pytest.mark.parametrize("name", EVAS)
def test_rotary_blocks_in_closed_form_are_full_autograd(name: str) -> None:
    called, options = EVAS[name]
    model = drawn(timm.create_model(called, num_classes=9, **options))
    for buffer in (model.blocks[-1].attn.k_bias,) if hasattr(model.blocks[-1].attn, "k_bias") else ():
        if buffer is not None:
            # Zero as it comes; turned differently for each token, it is not as nothing.
            buffer.copy_(torch.linspace(-1, 1, len(buffer)))
    split, head = split_timm(model), native_head(model)
    assert isinstance(split, TimmEva)
    assert head is not None
    sizes = [(options["img_size"], options["img_size"])]
    if model.dynamic_img_size:
        sizes += [(48, 80), (80, 48)]
    for size in sizes:
        x, classes = pictures(size), [0, 3, 8]
        activation, logits, *gradients = by_autograd(model, model.blocks[-1].norm1, x, classes)
        cut = split.cut(x)
        assert type(cut) is PlainCut
        assert close(head.double()(cut.embedding), logits, 1e-6)
        assert close(split.encode(x), cut.embedding)
        grid = split.shape(size)
        places = [
            values[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
            for values in (activation, *gradients)
        ]
        assert close(cut.activation, places[0])
        weights = head.weight[classes].expand(2, -1, -1)
        found = cut.gradient(weights)
        for place, expected in enumerate(places[1:]):
            assert expected.abs().max() > 0
            assert close(found[:, place], expected)
        assert close(cut.mean_gradient(weights), found.mean((3, 4)))
        assert is_in_place(split, x[:1])
    own = pictures(sizes[0])
    assert close(split.tail(*split.trunk(own)), split.embed(own))


@pytest.mark.parametrize("name", TOKENS)
def test_models_of_tokens_are_full_autograd(name: str) -> None:
    called, options, layer, prefix = TOKENS[name]
    model = drawn(timm.create_model(called, num_classes=9, **options))
    split, head = split_timm(model), native_head(model)
    assert head is not None
    assert isinstance(split, HookedSplit)
    assert split.layer == layer
    side = options.get("img_size", timm.get_pretrained_cfg(called).input_size[1])
    size = (side, side)
    x, classes = pictures(size), [0, 3, 8]
    activation, logits, *gradients = by_autograd(model, model.get_submodule(layer), x, classes)
    cut = split.cut(x)
    assert close(head.double()(cut.embedding), logits, 1e-6)
    assert close(split.embed(x), cut.embedding)
    grid = cut.activation.shape[2:]
    assert grid.numel() > 1
    places = [
        values if values.ndim == 4 else values[:, prefix:].transpose(1, 2).unflatten(2, grid)
        for values in (activation, *gradients)
    ]
    assert close(cut.activation, places[0])
    found = cut.gradient(head.weight[classes].expand(2, -1, -1))
    for place, expected in enumerate(places[1:]):
        assert expected.abs().max() > 0
        assert close(found[:, place], expected)
    assert close(cut.mean_gradient(head.weight[classes].expand(2, -1, -1)), found.mean((3, 4)))
    # LeViT's last 16 tokens have each seen the whole image, and with random weights none of it most.
    assert name == "levit" or is_in_place(split, x[:1])
